"""Fetch cycles with the real simulator: groups, retries, pages, bad symbols, budgets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import orjson
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from mdstream.errors import BadRequestError, CredentialsError, NetworkError, NoSpaceError
from mdstream.handoff.compression import Compression, decompress
from mdstream.handoff.ticket import BodyContents
from mdstream.session.budget import Budget
from mdstream.session.fetch import Cycle, Fetcher, group
from mdstream.session.rest import RestClient
from mdstream.settings import from_mapping
from mdstream.simulator.server import Simulator
from mdstream.simulator.simulator_settings import SimulatorSettings
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from tests.decoding import decode
from tests.running import HANGING_S
from workers.decoding.fallback import FallbackDecoder
from workers.decoding.payloads import Payloads

SYMBOLS = {
    "stocks": ["AAPL", "MSFT", "IBM"],
    "options": ["AAPL261218C00200000", "SPY261218P00590000"],
    "crypto": ["BTC/USD", "ETH/USD"],
    "news": ["AAPL", "TSLA"],
    "perps": ["BTC-PERP", "ETH-PERP"],
}


@given(
    st.lists(st.text("ABCDEF/€", min_size=1, max_size=12), unique=True, max_size=300),
    st.integers(-5, 400),
    st.integers(1, 200),
)
def test_groups_hold_every_symbol_once_and_are_as_few_as_allowed(
    symbols: list[str], allowed: int, largest: int
) -> None:
    groups = group(symbols, allowed, largest)
    assert [s for g in groups for s in g] == symbols
    assert all(0 < len(g) <= largest for g in groups)
    if len(symbols) <= allowed:
        assert all(len(g) == 1 for g in groups), "one request per symbol while the budget allows it"


def test_no_query_grows_too_long() -> None:
    groups = group([f"{'X' * 200}{i}" for i in range(1000)], 1, 1000)
    assert all(sum(len(s) + 3 for s in g) <= 6000 for g in groups)


class Case:
    def __init__(self, sim: Simulator, stream: str, budget: int, **config: Any) -> None:
        self.sim, self.stream = sim, stream
        self.config = from_mapping(
            {
                "stream_url": sim.stream_url,
                "data_url": sim.data_url,
                "credentials": {"key_id": "k", "secret_key": "s"},
                **config,
            }
        )
        self.client = RestClient(self.config.fetch, self.config.data_endpoint, Budget(budget))
        self.bodies: list[bytes] = []
        self.chains: dict[str, list[str]] = {}
        self.fetcher = Fetcher(
            STREAMS[stream],
            self.config.stream(stream),
            self.client,
            self.commit,
            60.0,
            self.chains.__setitem__,
        )

    async def commit(
        self,
        body: bytes,
        kind: PayloadKind,
        recv_ns: int,
        compression: Compression,
        requested: Collection[str],
    ) -> BodyContents:
        """Return the contents of a body as the pipeline does, from the real decoder."""
        body = decompress(body, compression, 1 << 24)
        self.bodies.append(body)
        if not requested:
            return decode(self.stream, body, kind=kind).bodies[0]
        names = orjson.dumps([*requested])
        payloads = Payloads.of([(names, PayloadKind.REQUESTED, 0), (body, kind, 0)])
        return FallbackDecoder(STREAMS[self.stream], lambda name: {}).decode(payloads).bodies[1]


def play(
    story: Callable[[Case], Awaitable[None]],
    stream: str = "stocks",
    budget: int = 200,
    config: dict[str, Any] | None = None,
    **sim: Any,
) -> None:
    """Run `story` with a fetcher. `budget` decides how symbols are grouped, but does not delay requests."""

    async def main() -> None:
        settings = SimulatorSettings(port=0, **{"rate_limit": 100_000, **sim})
        async with Simulator(settings) as simulator:
            case = Case(simulator, stream, 10_000, **(config or {}))
            case.client.budget.share = budget
            async with case.client, asyncio.timeout(HANGING_S):
                await story(case)

    uvloop.run(main())


def hold_answers(case: Case, count: int) -> None:
    """Hold the answers to all requests of `case` until `count` requests are in flight."""
    real, under_way, all_are = case.client.get, 0, asyncio.Event()

    async def get(path: str, params: Any) -> Any:
        nonlocal under_way
        under_way += 1
        if under_way == count:
            all_are.set()
        await all_are.wait()
        return await real(path, params)

    case.client.get = get  # type: ignore[method-assign]


@pytest.mark.parametrize("stream", STREAMS)
def test_every_symbol_of_every_stream_is_fetched_at_once(stream: str) -> None:
    async def story(case: Case) -> None:
        hold_answers(case, len(SYMBOLS[stream]))
        cycle = await case.fetcher.cycle(SYMBOLS[stream])
        assert cycle.ok == set(SYMBOLS[stream])
        assert cycle.failed == {}
        assert cycle.requests == len(SYMBOLS[stream])
        assert cycle.duration_s >= 0.2

    play(story, stream, latency_ms=200)


def test_fifty_symbols_take_about_as_long_as_one() -> None:
    async def story(case: Case) -> None:
        hold_answers(case, 50)
        cycle = await case.fetcher.cycle([f"S{i}" for i in range(50)])
        assert (len(cycle.ok), cycle.requests) == (50, 50)

    play(story, latency_ms=100)


def test_a_small_budget_makes_groups() -> None:
    async def story(case: Case) -> None:
        cycle = await case.fetcher.cycle([f"S{i}" for i in range(50)])
        assert (len(cycle.ok), cycle.requests) == (50, 10)

    play(story, budget=10)


@pytest.mark.parametrize("budget", [200, 7])
def test_symbols_with_priority_are_fetched_before_all_others(budget: int) -> None:
    """One request after another shows the order; a group has no others in it."""
    symbols, first = [f"S{i}" for i in range(50)], ["S40", "S3", "S49"]
    asked: list[list[str]] = []

    async def story(case: Case) -> None:
        real = case.client.get

        async def get(path: str, params: Any) -> Any:
            asked.append(params["symbols"].split(","))
            return await real(path, params)

        case.client.get = get  # type: ignore[method-assign]
        cycle = await case.fetcher.cycle([*first, *(s for s in symbols if s not in first)])
        assert cycle.ok == set(symbols)
        assert cycle.requests == min(budget, len(symbols))

    config = {"fetch": {"concurrency": 1}, "stocks": {"symbols": symbols, "priority": first}}
    play(story, budget=budget, config=config)
    in_order = [symbol for group in asked for symbol in group]
    assert in_order[: len(first)] == first
    assert all(set(group) <= set(first) or not set(group) & set(first) for group in asked)


@pytest.mark.parametrize("budget", [200, 3])
def test_one_bad_symbol_is_one_failure_with_its_reason(budget: int) -> None:
    async def story(case: Case) -> None:
        symbols = [f"S{i}" for i in range(20)] + ["not good"]
        cycle = await case.fetcher.cycle(symbols)
        assert cycle.failed == {"not good": "HTTP 400: invalid symbol: not good"}
        assert cycle.ok == {f"S{i}" for i in range(20)}

    play(story, budget=budget)


def test_a_group_is_bisected_when_the_service_does_not_name_the_culprit() -> None:
    async def story(case: Case) -> None:
        real = case.client.get

        async def get(path: str, params: Any) -> Any:
            try:
                return await real(path, params)
            except BadRequestError:
                raise BadRequestError("HTTP 400: something is wrong", 400) from None

        case.client.get = get  # type: ignore[method-assign]
        symbols = [f"S{i}" for i in range(30)] + ["b@d", "w*rse"]
        cycle = await case.fetcher.cycle(symbols)
        assert set(cycle.failed) == {"b@d", "w*rse"}
        assert len(cycle.ok) == 30

    play(story, budget=4)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_failures_are_retried(status: int) -> None:
    async def story(case: Case) -> None:
        cycle = await case.fetcher.cycle(["AAPL"])
        assert cycle.ok == {"AAPL"}
        assert cycle.requests == 2

    play(story, faults=(f"rest={status}*1",))


def test_a_used_up_account_waits_for_the_reset_and_goes_on() -> None:
    async def story(case: Case) -> None:
        window = case.sim._rest._window
        # The minute is nearly over, and another program has used the whole budget of the account.
        window.take = lambda key: (  # type: ignore[method-assign]
            time.time() >= reset,
            {"X-RateLimit-Limit": "200", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset)},
        )
        cycle = await case.fetcher.cycle(["AAPL", "MSFT"])
        assert cycle.ok == {"AAPL", "MSFT"}
        assert time.time() >= reset

    reset = int(time.time()) + 3
    play(story)


def test_a_failure_that_stays_is_recorded_and_the_others_go_on() -> None:
    async def story(case: Case) -> None:
        cycle = await case.fetcher.cycle(["AAPL", "MSFT"])
        assert cycle.ok == set()
        assert cycle.failed["AAPL"].startswith("HTTP 503: refused on demand")

    play(story, config={"fetch": {"attempts": 2}}, faults=("rest=503",))


def test_a_service_that_does_not_answer_is_given_up_at_the_deadline() -> None:
    async def story(case: Case) -> None:
        cycle = await case.fetcher.cycle(["AAPL"])
        assert cycle.failed == {"AAPL": f"no answer from {case.sim.data_url} within 0.3 s"}

    fetch = {"timeout_s": 0.3, "deadline_s": 2.0, "attempts": 100}  # the attempts alone would take minutes
    play(story, config={"fetch": fetch}, faults=("slow=5",))


def test_a_refused_key_fails_every_symbol_and_is_not_retried() -> None:
    async def story(case: Case) -> None:
        cycle = await case.fetcher.cycle(["AAPL", "MSFT"])
        assert set(cycle.failed.values()) == {
            "HTTP 401: refused on demand; check APCA_API_KEY_ID and APCA_API_SECRET_KEY"
        }
        assert cycle.requests == 2
        with pytest.raises(CredentialsError):
            await case.client.get("/v2/stocks/snapshots", {"symbols": "A"})

    play(story, faults=("rest=401",))


def test_symbols_that_the_service_leaves_out_have_failed() -> None:
    async def story(case: Case) -> None:
        async def commit(
            body: bytes, kind: PayloadKind, recv_ns: int, compression: Compression, requested: Any
        ) -> BodyContents:
            found = orjson.loads(body)
            return BodyContents(frozenset(found) - {"MSFT"}, {}, "")

        case.fetcher._commit = commit
        cycle = await case.fetcher.cycle(["AAPL", "MSFT"])
        assert cycle.ok == {"AAPL"}
        assert cycle.failed == {"MSFT": "the service has no data for it"}

    play(story)


def test_a_chain_is_followed_through_all_its_pages() -> None:
    async def story(case: Case) -> None:
        real = case.client.get

        async def small_pages(path: str, params: Any) -> Any:
            return await real(path, {**params, "limit": "40"})

        case.client.get = small_pages  # type: ignore[method-assign]
        cycle = await case.fetcher.cycle(["AAPL"])
        assert cycle.ok == {"AAPL"}
        assert {name: len(chain) for name, chain in case.chains.items()} == {"AAPL": 96}
        assert len(case.bodies) >= 3

    play(story, "options")


def test_a_chain_is_reported_at_once_and_does_not_wait_for_a_slow_one() -> None:
    async def story(case: Case) -> None:
        real, gate = case.client.get, asyncio.Event()

        async def one_is_slow(path: str, params: Any) -> Any:
            if path.endswith("SPY"):
                await gate.wait()
            return await real(path, params)

        case.client.get = one_is_slow  # type: ignore[method-assign]
        cycle = asyncio.ensure_future(case.fetcher.cycle(["AAPL", "SPY"]))
        while not case.chains:
            await asyncio.sleep(0.01)
        assert not cycle.done()
        gate.set()
        assert (await cycle).ok == {"AAPL", "SPY"}
        assert len(case.chains) == 2

    play(story, "options")


def test_a_cycle_that_failed_leaves_its_time_to_the_next_one() -> None:
    async def story(case: Case) -> None:
        await case.fetcher.cycle(["AAPL"])
        since = dict(case.fetcher._since)
        case.client.get = case.fetcher._client.get = _refuse  # type: ignore[method-assign]
        await asyncio.sleep(1.1)
        assert (await case.fetcher.cycle(["AAPL"])).failed
        assert case.fetcher._since == since != {}

    async def _refuse(path: str, params: Any) -> Any:
        raise NetworkError("gone")

    play(story, "news")


def record_requests(case: Case) -> list[dict[str, Any]]:
    """Return a list to which the parameters of each request are added from now on."""
    asked: list[dict[str, Any]] = []
    real = case.client.get

    async def get(path: str, params: Any) -> Any:
        asked.append(dict(params))
        return await real(path, params)

    case.client.get = get  # type: ignore[method-assign]
    return asked


def test_news_asks_only_for_what_is_new_after_the_first_cycle() -> None:
    async def story(case: Case) -> None:
        asked = record_requests(case)
        await case.fetcher.cycle(["AAPL"])
        second = await case.fetcher.cycle(["AAPL"])
        assert "start" not in asked[0]
        assert asked[1]["start"].endswith("Z")
        assert second.ok == {"AAPL"}, "a cycle without a new article is not a failure"

    play(story, "news")


def test_each_symbol_is_fetched_since_its_own_last_cycle_and_a_new_one_as_at_the_start() -> None:
    async def story(case: Case) -> None:
        asked = record_requests(case)
        await case.fetcher.cycle(["AAPL"])
        since = dict(case.fetcher._since)
        await asyncio.sleep(1.1)
        assert (await case.fetcher.cycle(["MSFT"], are_new=True)).ok == {"MSFT"}
        assert "start" not in asked[1]
        since = {**case.fetcher._since, **since}
        await case.fetcher.cycle(["AAPL", "MSFT"])
        assert {each["symbols"]: each["start"] for each in asked[2:]} == since
        assert since["AAPL"] < since["MSFT"]

    play(story, "news")


def test_a_symbol_whose_request_failed_is_asked_again_since_its_own_last_cycle() -> None:
    """Otherwise what happened in the failed interval would never be requested."""

    async def story(case: Case) -> None:
        asked: list[dict[str, Any]] = []
        failing: set[str] = set()
        real = case.client.get

        async def get(path: str, params: Any) -> Any:
            asked.append(dict(params))
            if failing.intersection(params["symbols"].split(",")):
                raise NetworkError("broken")
            return await real(path, params)

        case.client.get = get  # type: ignore[method-assign]
        await case.fetcher.cycle(["AAPL"])
        await asyncio.sleep(1.1)
        await case.fetcher.cycle(["MSFT"])  # so that the two are in different requests
        since = dict(case.fetcher._since)
        await asyncio.sleep(1.1)
        failing.add("MSFT")
        assert (await case.fetcher.cycle(["AAPL", "MSFT"])).failed.keys() == {"MSFT"}
        assert case.fetcher._since["AAPL"] > since["AAPL"]
        failing.clear()
        asked.clear()
        assert (await case.fetcher.cycle(["AAPL", "MSFT"])).ok == {"AAPL", "MSFT"}
        assert {"MSFT": since["MSFT"]}.items() <= {each["symbols"]: each["start"] for each in asked}.items()

    play(story, "news")


def test_a_page_token_that_repeats_is_an_error_and_not_an_endless_loop() -> None:
    async def story(case: Case) -> None:
        async def commit(
            body: bytes, kind: PayloadKind, recv_ns: int, compression: Compression, requested: Any
        ) -> BodyContents:
            return BodyContents(frozenset({"X"}), {}, "again")

        async def get(path: str, params: Any) -> Any:
            return type("Body", (), {"data": b"{}", "recv_ns": 0, "compression": Compression.PLAIN})

        case.fetcher._commit, case.client.get = commit, get  # type: ignore[method-assign, assignment]
        cycle = Cycle()
        await case.fetcher._chain("AAPL", cycle)
        assert "came twice" in cycle.failed["AAPL"]

    play(story, "options")


def test_each_body_comes_with_the_symbols_of_its_request() -> None:
    trade = b'{"latestTrade": {"p": 1, "s": 1, "t": "2026-01-05T14:30:00Z"}}'
    answers = {"AAPL": b'{"AAPL": %b, "X": %b}' % (trade, trade), "MSFT": b'{"X": %b}' % trade}

    async def story(case: Case) -> None:
        async def get(path: str, params: Any) -> Any:
            data = answers[params["symbols"]]
            return type("Body", (), {"data": data, "recv_ns": 0, "compression": Compression.PLAIN})

        case.client.get = get  # type: ignore[method-assign, assignment]
        cycle = await case.fetcher.cycle([*answers])
        assert cycle.ok == {"AAPL"}
        assert cycle.failed == {"MSFT": "unusable answer: 'X': its symbol was not requested"}

    play(story)


def test_a_contract_with_an_unusable_record_is_listed_all_the_same() -> None:
    async def story(case: Case) -> None:
        async def get(path: str, params: Any) -> Any:
            return type("Body", (), {"data": b"", "recv_ns": 0, "compression": Compression.PLAIN})

        async def commit(*_: Any) -> BodyContents:
            refused = {"SPY261218P00591000": "bad price", "SPY": "no contract"}
            return BodyContents(frozenset({"SPY261218P00590000"}), refused, "")

        case.fetcher._commit, case.client.get = commit, get  # type: ignore[method-assign, assignment]
        assert (await case.fetcher.cycle(["SPY"])).ok == {"SPY"}
        assert case.chains == {"SPY": ["SPY261218P00590000", "SPY261218P00591000"]}

    play(story, "options")


def test_a_chain_of_malformed_names_fails_alone() -> None:
    async def story(case: Case) -> None:
        found = {"SPY": {"SPY261218P00590000", "SPY1", "SPY26121\u00b2P00590000"}, "BRK": {"BRK"}}

        async def get(path: str, params: Any) -> Any:
            return type(
                "Body",
                (),
                {"data": path.rpartition("/")[2], "recv_ns": 0, "compression": Compression.PLAIN},
            )

        async def commit(
            body: Any, kind: PayloadKind, recv_ns: int, compression: Compression, requested: Any
        ) -> BodyContents:
            return BodyContents(frozenset(found[body]), {}, "")

        case.fetcher._commit, case.client.get = commit, get  # type: ignore[method-assign, assignment]
        cycle = await case.fetcher.cycle(["SPY", "BRK"])
        assert cycle.ok == {"SPY"}
        assert "names no contract, but 'BRK'" in cycle.failed["BRK"]
        assert case.chains == {"SPY": ["SPY261218P00590000"]}

    play(story, "options")


def test_what_waits_for_its_turn_has_not_begun_to_time_out() -> None:
    async def story(case: Case) -> None:
        cycle = await case.fetcher.cycle([f"A{i}" for i in range(9)])
        assert cycle.failed == {}
        assert cycle.requests == 9

    play(story, config={"fetch": {"concurrency": 1, "timeout_s": 5.0}}, latency_ms=600)


@pytest.mark.parametrize(
    ("stream", "answer", "reason"),
    [
        ("stocks", b"<html>", "unusable answer: not JSON"),
        ("stocks", b"{}", "the service has no data for it"),
        ("stocks", b'{"AAPL": null}', "the service has no data for it"),
        ("stocks", b'{"AAPL": 5}', "unusable answer: expected an object, got int"),
        ("stocks", b'{"AAPL": {"latestTrade": 5}}', "unusable answer: latestTrade: expected"),
        ("stocks", b'{"message": "ok"}', "unusable answer: 'message': expected an object, got text"),
        (
            "stocks",
            b'{"MSFT": {}, "X": {"latestTrade": {"p": 1, "s": 1, "t": "2026-01-05T14:30:00Z"}}}',
            "unusable answer: 'X': its symbol was not requested",
        ),
        ("stocks", b'{"AAPL": {"latestTrade": null, "dailyBar": {}}}', "the service has no data for it"),
        ("stocks", b'{"AAPL": {"latestTrade": {"s": 1}}}', "unusable answer: latestTrade.t: missing"),
        ("news", b'{"news": [{"id": "malformed"}]}', "unusable answer: "),
    ],
)
def test_an_answer_of_no_use_is_reported_as_what_it_is(stream: str, answer: bytes, reason: str) -> None:
    async def story(case: Case) -> None:
        async def get(path: str, params: Any) -> Any:
            return type("Body", (), {"data": answer, "recv_ns": 0, "compression": Compression.PLAIN})

        case.client.get = get  # type: ignore[method-assign, assignment]
        cycle = await case.fetcher.cycle(["AAPL"])
        assert set(cycle.failed) == {"AAPL"}
        assert cycle.failed["AAPL"].startswith(reason)

    play(story, stream)


def test_pages_without_end_and_underlyings_that_look_like_paths() -> None:
    async def story(case: Case) -> None:
        count = 0
        asked: list[str] = []

        async def get(path: str, params: Any) -> Any:
            asked.append(path)
            return type("Body", (), {"data": b"", "recv_ns": 0, "compression": Compression.PLAIN})

        async def commit(
            body: bytes, kind: PayloadKind, recv_ns: int, compression: Compression, requested: Any
        ) -> BodyContents:
            nonlocal count
            count += 1
            return BodyContents(frozenset({"SPY261218P00590000"}), {}, f"token {count}")

        case.fetcher._commit, case.client.get = commit, get  # type: ignore[method-assign, assignment]
        cycle = await case.fetcher.cycle(["A?b=1/../x"])
        assert cycle.failed == {"A?b=1/../x": "an answer of over 100 pages"}
        assert set(asked) == {"/v1beta1/options/snapshots/A%3Fb%3D1%2F..%2Fx"}

    play(story, "options")


def test_no_room_is_no_symbols_fault() -> None:
    async def story(case: Case) -> None:
        async def commit(
            body: bytes, kind: PayloadKind, recv_ns: int, compression: Compression, requested: Any
        ) -> BodyContents:
            raise NoSpaceError("/dev/shm", 1, 0)

        case.fetcher._commit = commit
        with pytest.raises(NoSpaceError):
            await case.fetcher.cycle(["AAPL", "MSFT"])

    play(story)


def test_no_room_is_one_plain_error_from_a_bisected_group_too() -> None:
    async def story(case: Case) -> None:
        async def commit(
            body: bytes, kind: PayloadKind, recv_ns: int, compression: Compression, requested: Any
        ) -> BodyContents:
            raise NoSpaceError("/dev/shm", 1, 0)

        case.fetcher._commit = commit
        with pytest.raises(NoSpaceError):
            await case.fetcher.cycle(["AAPL", "MSFT", "not good"])

    play(story, budget=1)
