"""A success that is not an answer is requested again, for every kind of request that history sends."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdstream.errors import UnusableAnswerError
from mdstream.history.universe import resolve_symbols
from mdstream.limits import MOST_UNUSABLE
from mdstream.settings import from_mapping
from tests.history.service import Query, Refusal, Service, bar, fill, serve, trade

DAY = "2026-01-05"
KEYS = {"key_id": "k", "secret_key": "s"}
CONTRACTS = ["AAPL261218C00100000", "AAPL261218C00110000"]


def answer(path: str, query: Query) -> Any:
    """Answer as the service does. Contracts come on two pages."""
    if path.endswith("/assets"):
        return [{"symbol": "AAA"}, {"symbol": "ABB"}]
    if path.endswith("/contracts"):
        page = int(query.get("page_token", 0))
        return {"option_contracts": [{"symbol": CONTRACTS[page]}], "next_page_token": None if page else "1"}
    symbol = query["symbols"]
    if path.endswith("/bars"):
        return {"bars": {symbol: [bar(f"{DAY}T05:00:00Z")]}, "next_page_token": None}
    return {"trades": {symbol: [trade(f"{DAY}T15:00:00Z", 1)]}, "next_page_token": None}


def resolve(service: Service, dataset: str, pattern: str) -> list[str]:
    config = from_mapping({"data_url": service.url, "credentials": KEYS}).backfill_settings
    return asyncio.run(resolve_symbols(dataset, [pattern], DAY, config))


def list_assets(service: Service, store: Path) -> None:
    assert resolve(service, "stocks.trades", "A*") == ["AAA", "ABB"]


def list_contracts(service: Service, store: Path) -> None:
    assert resolve(service, "options.bars", "AAPL*") == CONTRACTS


def fetch_pages(service: Service, store: Path) -> None:
    done = fill(service, store, "stocks.trades", "AAPL", DAY, DAY)
    assert (done.complete, done.stored) == (True, 1)


def repair(service: Service, store: Path) -> None:
    done = fill(service, store, "stocks.trades", "AAPL", DAY, DAY, repair=True)
    assert (done.complete, done.stored, done.uncounted) == (True, 1, 0)


KINDS: list[tuple[Callable[[Service, Path], None], str]] = [
    (list_assets, "/assets"),
    (list_contracts, "/contracts"),
    (fetch_pages, "/trades"),
    (repair, "/bars"),
]
"""What sends a kind of request, and the end of its path."""


def cut(body: Any) -> str:
    return json.dumps(body)[:-9]


BROKEN: dict[str, Callable[[Any], str]] = {
    "cut": cut,
    "cut at once": lambda body: json.dumps(body)[:1],
    "empty": lambda body: "",
    "null": lambda body: "null",
    "a number": lambda body: "5",
    "a text": lambda body: '"x"',
    "a page of HTML": lambda body: "<html><body>Bad gateway</body></html>",
    "of another kind": lambda body: '{"x": 1}' if isinstance(body, list) else "[]",
}


@pytest.mark.cases("S6")
@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize(("send", "path"), KINDS, ids=[path for _, path in KINDS])
def test_a_success_that_is_not_an_answer_is_requested_again(
    send: Callable[[Service, Path], None], path: str, broken: str, tmp_path: Path
) -> None:
    seen: Counter[str] = Counter()

    def break_first(at: str, query: Query) -> Any:
        body = answer(at, query)
        request = f"{at}?{sorted(query.items())}"
        seen[request] += 1
        if at.endswith(path) and seen[request] == 1:
            raise Refusal(200, BROKEN[broken](body))
        return body

    with serve(break_first) as service:
        send(service, tmp_path)
    again = [number for request, number in seen.items() if f"{path}?" in request]
    assert again
    assert set(again) == {2}


@pytest.mark.cases("S6")
@pytest.mark.parametrize(("dataset", "pattern"), [("stocks.trades", "A*"), ("options.bars", "AAPL*")])
def test_a_list_that_stays_unusable_is_an_error_that_names_it(dataset: str, pattern: str) -> None:
    def refuse(path: str, query: Query) -> Any:
        raise Refusal(200, cut(answer(path, query)))

    with serve(refuse) as service:
        with pytest.raises(UnusableAnswerError, match=r"unusable answer of /v2/(assets|options/contracts)"):
            resolve(service, dataset, pattern)
        asked = Counter(query.get("status") for _, query in service.take())
    # Lists that are requested beside it are given up as soon as one has failed.
    assert max(asked.values()) == MOST_UNUSABLE
