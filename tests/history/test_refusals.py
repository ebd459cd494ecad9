"""Backfills from a server that refuses, or answers without data, in ways that our simulator does not."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import mdstream
from mdstream.errors import PlanError
from mdstream.history.status import Status
from tests.running import HANGING_S

Answer = tuple[int, str]
HTML = "<html><body>403 Forbidden</body></html>"


@contextlib.contextmanager
def serve_answers(answer: Callable[[int, dict[str, str]], Answer]) -> Iterator[str]:
    """Start a server that answers request number n, with its query, by `answer`; yield its address."""
    count, lock = 0, threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            nonlocal count
            with lock:
                number, count = count, count + 1
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            status, text = answer(number, query)
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(HANGING_S)


def fill(url: str, store: Path, symbols: list[str], **fetch: Any) -> Any:
    settings = {
        "data_url": url,
        "credentials": {"key_id": "k", "secret_key": "s"},
        "backfill": {"workers": 0, "concurrency": 4, "budget_per_minute": 100_000},
        "fetch": fetch,
    }
    span = ("2026-01-05T15:00:00Z", "2026-01-05T15:10:00Z")
    return mdstream.backfill("stocks.trades", symbols, *span, store=store, settings=settings)


def page(query: dict[str, str], token: str | None = None) -> Answer:
    """Return a page with one trade of the symbol."""
    trade = {"t": "2026-01-05T15:00:01Z", "x": "V", "p": 1.5, "s": 2, "c": ["@"], "i": 1, "z": "A"}
    return 200, json.dumps({"trades": {query["symbols"]: [trade]}, "next_page_token": token})


@pytest.mark.cases("S5", "S6")
def test_single_answers_of_front_ends_cost_no_symbol(tmp_path: Path) -> None:
    """Each is given once, in the place of an answer that would have had data."""
    others = {
        0: (403, HTML),
        2: (200, HTML),
        4: (200, '{"message":"too many requests."}'),
        6: (404, HTML),
        8: (522, HTML),
        10: (401, '{"message":"forbidden."}'),
        12: (200, '{"trades":{"A":[{"t":"2026-01-05T15:00:01'),
        14: (302, ""),
    }
    symbols = [f"S{number}" for number in range(12)]

    with serve_answers(lambda number, query: others.get(number) or page(query)) as url:
        status = fill(url, tmp_path, symbols)
    assert status.complete, status.failed
    assert status.rows == status.stored == len(symbols)
    assert status.requests == len(symbols) + len(others)


@pytest.mark.cases("S1")
@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("subscription does not permit querying SIP data", "choose another data feed with --feed"),
        ("OPRA agreement is not signed", "sign it, or choose another data feed with --feed"),
    ],
)
def test_a_plan_without_the_data_ends_it_and_blames_no_symbol(
    tmp_path: Path, text: str, advice: str
) -> None:
    refusal = (403, json.dumps({"message": text}))
    with (
        serve_answers(lambda number, query: refusal) as url,
        pytest.raises(PlanError, match=advice) as error,
    ):
        fill(url, tmp_path, [f"S{number}" for number in range(8)])
    assert error.value.exit_code == 3


@pytest.mark.cases("S1")
@pytest.mark.parametrize("refused", ["S0", "S7"])
def test_a_plan_without_the_data_of_one_symbol_costs_no_other(tmp_path: Path, refused: str) -> None:
    refusal = (403, '{"message":"subscription does not permit querying OTC data"}')
    with serve_answers(
        lambda number, query: refusal if query["symbols"] == refused else page(query)
    ) as url:
        for stored in (7, 0):
            status = fill(url, tmp_path, [f"S{number}" for number in range(8)])
            assert set(status.failed) == {refused}
            assert status.stored == stored
            assert status.exit_code == 3, "as the table of refusals says"


def test_the_exit_code_is_that_of_the_plan_only_if_nothing_else_is_missing() -> None:
    plan: dict[str, Any] = {"failed": {"A": "x"}, "excluded": {"A"}, "shards": 2, "fetched": 1}
    assert Status(**plan).exit_code == 3
    assert Status(**{**plan, "failed": {"A": "x", "B": "y"}}).exit_code == 1
    for other in ("rejected", "short", "uncounted"):
        assert Status(**plan, **{other: 1}).exit_code == 1
    assert Status(shards=1).exit_code == 1
    assert Status().exit_code == 0


@pytest.mark.cases("S13")
@pytest.mark.parametrize("text", ["null", ""])
def test_a_token_that_says_null_is_not_sent_on(tmp_path: Path, text: str) -> None:
    asked: list[dict[str, str]] = []

    def answer(number: int, query: dict[str, str]) -> Answer:
        asked.append(query)
        return page(query, text)

    with serve_answers(answer) as url:
        status = fill(url, tmp_path, ["AAPL"])
    assert status.complete
    assert ["page_token" in query for query in asked] == [False]


@pytest.mark.cases("S13")
def test_pages_without_rows_and_without_end_cost_their_symbol_a_few_requests(tmp_path: Path) -> None:
    def answer(number: int, query: dict[str, str]) -> Answer:
        if query["symbols"] != "BAD":
            return page(query)
        return 200, json.dumps({"trades": {}, "next_page_token": f"token{number}"})

    with serve_answers(answer) as url:
        status = fill(url, tmp_path, ["AAPL", "BAD", "MSFT"])
    assert set(status.failed) == {"BAD"}
    assert "pages in a row without a record" in status.failed["BAD"]
    assert status.stored == 2
    assert status.requests < 30


@pytest.mark.cases("N3")
def test_a_server_whose_first_answers_are_late_is_waited_for(tmp_path: Path) -> None:
    gone = threading.Event()

    def answer(number: int, query: dict[str, str]) -> Answer:
        if number < 2:
            gone.wait(HANGING_S)
        return page(query)

    with serve_answers(answer) as url:
        status = fill(url, tmp_path, ["AAPL", "MSFT"], timeout_s=0.5)
        gone.set()
    assert status.complete, status.failed
    assert status.stored == 2
