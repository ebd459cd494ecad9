"""Requests page by page, and answers without an end: with literal pages, then with the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
import pytest
import uvloop

from mdstream.errors import BadRequestError, EndlessAnswerError, ServerError, UnusableAnswerError
from mdstream.handoff.compression import Compression, decompress
from mdstream.limits import LONGEST_TOKEN, MOST_EMPTY_PAGES, MOST_UNUSABLE
from mdstream.session.budget import Budget
from mdstream.session.pages import (
    PageRequest,
    chain_request,
    history_request,
    is_stale_token,
    pages,
    state_request,
    why_endless,
)
from mdstream.session.rest import Body, RestClient
from mdstream.settings import from_mapping
from mdstream.simulator.server import Simulator
from mdstream.simulator.simulator_settings import SimulatorSettings
from mdstream.store.query import parse_time
from mdstream.streams import STREAMS
from mdstream.streams.datasets import history_of


class Records(NamedTuple):
    """The records of a page, and its token."""

    records: list[Any]
    page_token: str

    @property
    def is_empty(self) -> bool:
        return not self.records


async def read(body: Body) -> Records:
    found = orjson.loads(decompress(body.data, body.compression, 1 << 24))
    by_symbol = found.get("trades", {})
    records = [(symbol, each["t"]) for symbol, listed in by_symbol.items() for each in listed]
    return Records(records or found.get("records", []), found["next_page_token"] or "")


class Server:
    """A server that answers with its pages by token, and keeps the requests."""

    def __init__(self, bodies: Mapping[str, Any]) -> None:
        self.bodies = bodies
        self.asked: list[dict[str, str]] = []

    async def get(self, path: str, params: Mapping[str, str]) -> Body:
        assert path == "/v2/things"
        self.asked.append(dict(params))
        token = params.get("page_token", "")
        if token not in self.bodies:
            raise BadRequestError("HTTP 400: invalid page_token", 400)
        return Body(orjson.dumps(self.bodies[token]), 0, Compression.PLAIN)


def make_page(records: list[int], token: str | None) -> dict[str, Any]:
    return {"records": records, "next_page_token": token}


REQUEST = PageRequest("/v2/things", {"symbols": "A"})
THREE = {"": make_page([1, 2], "b"), "b": make_page([], "c"), "c": make_page([3], None)}


async def read_all(server: Any, request: PageRequest = REQUEST) -> list[Any]:
    return [record async for answer in pages(server, request, read) for record in answer.records]


def test_pages_are_followed_by_their_tokens_to_the_last() -> None:
    server = Server(THREE)
    assert asyncio.run(read_all(server)) == [1, 2, 3]
    asked = {"symbols": "A"}
    assert server.asked == [asked, {**asked, "page_token": "b"}, {**asked, "page_token": "c"}]


def test_an_answer_resumes_from_a_token() -> None:
    server = Server(THREE)
    assert asyncio.run(read_all(server, PageRequest("/v2/things", {}, "c"))) == [3]
    assert server.asked == [{"page_token": "c"}]


def test_the_next_page_is_not_requested_before_this_one_is_taken() -> None:
    async def main() -> None:
        server = Server(THREE)
        answers = pages(server, REQUEST, read)
        assert (await anext(answers)).records == [1, 2]
        await asyncio.sleep(0.01)
        assert len(server.asked) == 1
        await answers.aclose()
        assert len(server.asked) == 1

    asyncio.run(main())


@pytest.mark.parametrize("start", ["", "b"])
def test_a_token_that_comes_again_ends_it_before_its_page_is_handed_on(start: str) -> None:
    server = Server({"": make_page([1], "b"), "b": make_page([2], "c"), "c": make_page([3], "b")})

    async def main() -> list[int]:
        taken = []
        with pytest.raises(ServerError, match="page token 'b' came twice"):
            async for answer in pages(server, PageRequest("/v2/things", {}, start), read):
                taken += answer.records
        return taken

    assert asyncio.run(main()) == ([1, 2] if not start else [2])


class Endless:
    """A server whose pages always have a next page."""

    def __init__(self, records: list[int]) -> None:
        self.requests = 0
        self._records = records

    async def get(self, path: str, params: Mapping[str, str]) -> Body:
        self.requests += 1
        return Body(orjson.dumps(make_page(self._records, f"token {self.requests}")), 0, Compression.PLAIN)


def test_an_answer_without_end_is_given_up_at_its_bound() -> None:
    server = Endless([1])
    with pytest.raises(ServerError, match="an answer of over 7 pages"):
        asyncio.run(read_all(server, PageRequest("/v2/things", {}, most_pages=7)))
    assert server.requests == 7


@pytest.mark.cases("S13")
def test_a_token_that_is_too_long_is_not_sent_on() -> None:
    server = Server({"": make_page([1], "x" * 9000)})
    with pytest.raises(EndlessAnswerError, match="page token of 9,000 characters"):
        asyncio.run(read_all(server))
    assert len(server.asked) == 1


@pytest.mark.cases("S13")
def test_pages_without_a_record_are_given_up_sooner() -> None:
    server = Endless([])
    with pytest.raises(EndlessAnswerError, match="20 pages in a row without a record, and no end"):
        asyncio.run(read_all(server))
    assert server.requests == MOST_EMPTY_PAGES


@pytest.mark.cases("S6")
@pytest.mark.parametrize("unusable", [1, MOST_UNUSABLE - 1, MOST_UNUSABLE])
def test_a_page_that_cannot_be_read_is_requested_again_and_then_an_error(unusable: int) -> None:
    server, left = Server(THREE), unusable

    async def read_some(body: Body) -> Records:
        nonlocal left
        found = await read(body)
        if found.page_token == "c" and left:
            left -= 1
            raise UnusableAnswerError("unusable: it is cut off")
        return found

    async def main() -> list[int]:
        return [record async for answer in pages(server, REQUEST, read_some) for record in answer.records]

    if unusable < MOST_UNUSABLE:
        assert asyncio.run(main()) == [1, 2, 3]
    else:
        with pytest.raises(UnusableAnswerError, match="cut off"):
            asyncio.run(main())
    asked = [request.get("page_token", "") for request in server.asked]
    assert asked.count("b") == min(unusable + 1, MOST_UNUSABLE)


@pytest.mark.parametrize(
    ("token", "seen", "empty", "why"),
    [
        ("c", {"", "b"}, 0, ""),
        ("b", {"", "b"}, 0, "page token 'b' came twice"),
        ("x" * 99, {"", "x" * 99}, 0, f"page token '{'x' * 40}' came twice"),
        ("x" * LONGEST_TOKEN, {""}, 0, ""),
        ("x" * (LONGEST_TOKEN + 1), {""}, 0, "page token of 4,097 characters"),
        ("d", {"", "b", "c"}, 0, "an answer of over 3 pages"),
        ("c", {"", "b"}, MOST_EMPTY_PAGES - 1, ""),
        (
            "c",
            {"", "b"},
            MOST_EMPTY_PAGES,
            f"{MOST_EMPTY_PAGES} pages in a row without a record, and no end",
        ),
    ],
)
def test_when_there_is_no_end(token: str, seen: set[str], empty: int, why: str) -> None:
    assert why_endless(token, seen, empty, most_pages=3) == why


@pytest.mark.parametrize(
    ("reason", "token", "stale"),
    [
        ("HTTP 400: invalid page_token", "b", True),
        ("HTTP 400: invalid page_token", "", False),
        ("HTTP 400: invalid symbol: b@d", "b", False),
    ],
)
def test_a_token_is_stale_if_the_service_speaks_of_it(reason: str, token: str, stale: bool) -> None:
    assert is_stale_token(BadRequestError(reason, 400), token) is stale


def test_what_is_asked_of_history() -> None:
    span = parse_time("2026-01-05T14:30:00Z", ""), parse_time("2026-01-05T15:00:00Z", "")
    bars = {"timeframe": "5Min", "adjustment": "raw"}
    request = history_request(history_of("stocks.bars"), "sip", ["AAPL", "MSFT"], span, bars, "tok")
    assert (request.path, request.token) == ("/v2/stocks/bars", "tok")
    assert request.query("") == {
        "start": "2026-01-05T14:30:00.000000000Z",
        "end": "2026-01-05T14:59:59.999999999Z",
        "limit": "10000",
        "sort": "asc",
        "symbols": "AAPL,MSFT",
        "feed": "sip",
        "timeframe": "5Min",
        "adjustment": "raw",
    }


def test_the_feed_of_crypto_is_in_the_path_and_news_may_name_no_symbol() -> None:
    trades = history_request(history_of("crypto.trades"), "us-1", ["BTC/USD"], (0, 1), {"timeframe": ""})
    assert trades.path == "/v1beta3/crypto/us-1/trades"
    assert not {"feed", "timeframe"} & set(trades.parameters)
    news = history_request(history_of("news"), "benzinga", [], (0, 1))
    assert "symbols" not in news.parameters
    assert (news.parameters["limit"], news.parameters["include_content"]) == ("50", "true")


def test_what_is_asked_of_the_state_of_symbols() -> None:
    stocks, news, options = (STREAMS[name] for name in ("stocks", "news", "options"))
    request = state_request(stocks.fetch, "iex", ["AAPL", "MSFT"], "2026-01-05T00:00:00Z")
    assert request.parameters == {"symbols": "AAPL,MSFT", "feed": "iex"}
    assert state_request(news.fetch, "benzinga", ["A"], "2026").parameters["start"] == "2026"
    assert "start" not in state_request(news.fetch, "benzinga", ["A"]).parameters
    assert options.chain is not None
    request = chain_request(options.chain, options.fetch, "opra", "A/B?")
    assert request.path == "/v1beta1/options/snapshots/A%2FB%3F"
    assert request.parameters == {"limit": "1000", "feed": "opra"}


def test_the_pages_of_the_simulator_resumed_at_each_are_those_of_one_answer() -> None:
    span = parse_time("2026-01-05T15:00:00Z", ""), parse_time("2026-01-05T15:02:00Z", "")
    whole = history_request(history_of("stocks.trades"), "sip", ["AAPL", "MSFT"], span)
    small = PageRequest(whole.path, {**whole.parameters, "limit": "17"})

    async def main() -> None:
        async with Simulator(SimulatorSettings(port=0, rate_limit=100_000, latency_ms=0)) as sim:
            config = from_mapping(
                {"data_url": sim.data_url, "credentials": {"key_id": "k", "secret_key": "s"}}
            )
            async with RestClient(config.fetch, config.data_endpoint, Budget(10_000)) as client:
                expected = await read_all(client, whole)
                assert len(expected) > 100
                assert {symbol for symbol, _ in expected} == {"AAPL", "MSFT"}
                assert await read_all(client, small) == expected
                parts, token, requests = [], "", client.requests
                while True:
                    request = PageRequest(small.path, small.parameters, token)
                    answers = pages(client, request, read)
                    answer = await anext(answers)  # as if this process were killed after one page
                    await answers.aclose()
                    parts += answer.records
                    if not (token := answer.page_token):
                        break
                assert parts == expected
                assert client.requests - requests == -(-len(expected) // 17)
                with pytest.raises(BadRequestError) as refused:
                    await read_all(client, PageRequest(small.path, small.parameters, "nonsense"))
                assert is_stale_token(refused.value, "nonsense")

    uvloop.run(main())
