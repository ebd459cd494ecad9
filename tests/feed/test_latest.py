"""The last values of each symbol, compared with a plain dict filled from the messages in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.reading.attach import Attachment, attach
from mdstream.simulator.encode import ENCODINGS
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from tests import traffic
from tests.fuzzing import examples
from tests.piping import Payload, rig

STREAMS_WITH_LATEST = [name for name, spec in STREAMS.items() if spec.latest]
RECV_NS = 1_700_000_000_000_000_000
COUNT = 3000

State = dict[str, dict[str, Any]]


def make_model(stream: str, count: int) -> State:
    """Return symbol → the columns of its last trade and quote, by a plain loop."""
    state: State = {}
    for channel, name in (("trades", "trade"), ("quotes", "quote")):
        for row in traffic.rows(stream, count)[channel]:
            known = state.setdefault(row["symbol"], {})
            if row["ts"] >= known.get(f"{name}_ts", 0):
                known.update({f"{name}_{k}": v for k, v in row.items() if k not in ("symbol", "update")})
    return state


def read_latest(run: Attachment, stream: str) -> State:
    frame = run.latest(stream)
    coded = [c for c, t in frame.schema.items() if isinstance(t, pl.Categorical)]
    times = [c for c, t in frame.schema.items() if isinstance(t, pl.Datetime)]
    plain = frame.with_columns(
        *(pl.col(c).cast(pl.String) for c in coded), *(pl.col(c).to_physical() for c in times)
    )
    return {row.pop("symbol"): row for row in plain.iter_rows(named=True)}


def assert_known(found: State, wanted: State) -> None:
    assert set(found) == set(wanted)
    for symbol, columns in wanted.items():
        assert {k: found[symbol][k] for k in columns} == columns, symbol


def payloads(stream: str, per: int) -> list[Payload]:
    form = ENCODINGS[STREAMS[stream].codec]
    kind = PayloadKind.MSGPACK if form.binary else PayloadKind.JSON
    packed = [form.message(m) for m in traffic.messages(stream, COUNT)]
    return [(form.payload(packed[i : i + per]), kind, RECV_NS) for i in range(0, COUNT, per)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stream", STREAMS_WITH_LATEST)
def test_the_last_trade_and_quote_of_each_symbol(tmp_path: Path, stream: str, workers: int) -> None:
    async def go() -> None:
        async with rig(stream, workers, tmp_path, slab_kb=16) as r:
            await r.feed(payloads(stream, 7))
            await r.drain()
            assert_known(read_latest(attach(str(r.run)), stream), make_model(stream, COUNT))

    uvloop.run(go())


def snapshot(symbol: str, trade_s: int | None, quote_s: int | None) -> bytes:
    """Return a REST body with the state of a symbol; times are seconds of a minute."""
    parts: dict[str, Any] = {}
    if trade_s is not None:
        parts["latestTrade"] = {"p": trade_s, "s": 1, "t": f"2024-01-01T00:00:{trade_s:02d}Z"}
    if quote_s is not None:
        parts["latestQuote"] = {"bp": quote_s, "bs": 1, "t": f"2024-01-01T00:00:{quote_s:02d}Z"}
    return orjson.dumps({symbol: parts})


def make_message(symbol: str, kind: str, second: int) -> bytes:
    message: dict[str, Any] = {"T": kind, "S": symbol, "t": f"2024-01-01T00:00:{second:02d}Z"}
    message |= {"p": second + 0.5, "s": 1} if kind == "t" else {"bp": second + 0.5, "bs": 1}
    return orjson.dumps([message])


SECONDS = st.none() | st.integers(0, 59)
STEPS = st.lists(
    st.tuples(st.just("snapshot"), st.sampled_from("ABC"), SECONDS, SECONDS)
    | st.tuples(st.sampled_from("tq"), st.sampled_from("ABC"), st.integers(0, 59), st.none()),
    max_size=25,
)


@given(STEPS, st.sampled_from([16, 512]))
@settings(max_examples=examples(40), deadline=None)
def test_what_is_fetched_and_what_is_streamed_go_together(
    steps: list[tuple[str, str, int | None, int | None]], slab_kb: int
) -> None:
    known: dict[str, dict[str, tuple[int, float]]] = {}
    work: list[Payload] = []
    for what, symbol, first, second in steps:
        if what == "snapshot":
            work.append((snapshot(symbol, first, second), PayloadKind.SNAPSHOTS, RECV_NS))
            values = [("trade_price", first, 0.0), ("quote_bid_price", second, 0.0)]
        else:
            assert first is not None
            work.append((make_message(symbol, what, first), PayloadKind.JSON, RECV_NS))
            values = [("trade_price" if what == "t" else "quote_bid_price", first, 0.5)]
        for column, at, more in values:
            if at is not None and at >= known.setdefault(symbol, {}).get(column, (0, 0.0))[0]:
                price = at + more
                # A bid of 0 means that there is no bid.
                known[symbol][column] = at, price

    async def go() -> None:
        async with rig("stocks", 0, Path("/nowhere"), slab_kb=slab_kb) as r:
            for payload in work:  # one per batch, because fetched rows come last in a shared batch
                await r.feed([payload])
                await r.pipeline.drain()
            await r.drain()
            found = read_latest(attach(str(r.run)), "stocks")
            for symbol, columns in known.items():
                for column, (_, price) in columns.items():
                    wanted = None if column == "quote_bid_price" and price == 0 else price
                    assert found[symbol][column] == wanted

    uvloop.run(go())


FAR = "2200-01-01T00:00:00Z"


def _trade(price: float, at: str) -> dict[str, Any]:
    return {"p": price, "s": 1, "t": at}


@pytest.mark.cases("V4")
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("far_first", [True, False])
@pytest.mark.parametrize("source", ["stream", "snapshot"])
@pytest.mark.parametrize("far", [FAR, "2023-11-14T22:14:21Z"])  # the latter is 61 s after the receipt
def test_a_trade_from_the_future_neither_becomes_nor_stays_the_last(
    tmp_path: Path, together: bool, far_first: bool, source: str, far: str
) -> None:
    """Whatever the order and the batches, and whoever says it."""
    steps = [(999.0, far), (10.0, "2023-11-14T22:13:19Z"), (11.0, "2023-11-14T22:13:20Z")]
    if not far_first:
        steps = steps[1:] + steps[:1]

    def payload(price: float, at: str) -> Payload:
        if source == "snapshot" and price == 999.0:
            body = {"AAPL": {"latestTrade": _trade(price, at)}}
            return orjson.dumps(body), PayloadKind.SNAPSHOTS, RECV_NS
        message = {"T": "t", "S": "AAPL", **_trade(price, at)}
        return orjson.dumps([message]), PayloadKind.JSON, RECV_NS

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            for step in steps:
                await r.feed([payload(*step)])
                if not together:
                    await r.pipeline.drain()
            await r.drain()
            found = read_latest(attach(str(r.run)), "stocks")["AAPL"]
            assert (found["trade_price"], found["trade_recv_ts"]) == (11.0, RECV_NS)

    uvloop.run(go())


def test_times_all_ahead_of_the_clock_are_compared_with_each_other(tmp_path: Path) -> None:
    """The clock of the machine may be slow."""

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            for second in (5, 7, 6):
                at = f"2023-11-14T23:00:0{second}Z"
                await r.feed(
                    [
                        (
                            orjson.dumps([{"T": "t", "S": "AAPL", **_trade(second, at)}]),
                            PayloadKind.JSON,
                            RECV_NS,
                        )
                    ]
                )
                await r.pipeline.drain()
            await r.drain()
            assert read_latest(attach(str(r.run)), "stocks")["AAPL"]["trade_price"] == 7.0

    uvloop.run(go())


def test_greeks_come_from_snapshots(tmp_path: Path) -> None:
    name = "AAPL261218C00200000"

    def body(delta: float) -> bytes:
        greeks = {"delta": delta, "gamma": 0.1}
        return orjson.dumps({"snapshots": {name: {"greeks": greeks, "impliedVolatility": 0.25}}})

    async def go() -> None:
        async with rig("options", 0, tmp_path) as r:
            for number, delta in enumerate((0.5, 0.6)):
                await r.feed([(body(delta), PayloadKind.SNAPSHOTS, RECV_NS + number)])
                await r.pipeline.drain()
            await r.drain()
            row = read_latest(attach(str(r.run)), "options")[name]
            assert (row["delta"], row["gamma"], row["implied_volatility"]) == (0.6, 0.1, 0.25)
            assert row["greeks_recv_ts"] == RECV_NS + 1
            assert row["trade_price"] is None

    uvloop.run(go())
