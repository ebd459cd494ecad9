"""Fetched history and recorded frames form one table without duplicates."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import uvloop

import mdstream
from mdstream.config import StoreConfig
from mdstream.recording.recorder import Recorder
from mdstream.simulator.encode import rfc3339
from mdstream.store.query import matches, parse_time
from mdstream.streams.spec import PayloadKind
from tests.history.truth import records
from tests.piping import Payload, rig
from tests.recording.test_recorder import mark_ended
from tests.running import simulator

SPAN = ("2026-01-05T15:00:00Z", "2026-01-05T15:10:00Z")
MIDDLE = "2026-01-05T15:05:00Z"


def make_stream_payloads(what: str, symbol: str, span: tuple[str, str]) -> list[Payload]:
    """Return the service's records of a range as payloads of its stream."""
    rows = records("stocks", what, symbol, parse_time(span[0], ""), parse_time(span[1], ""))
    letter = {"trades": "t", "quotes": "q", "1Min": "b"}[what]
    out = []
    for row in rows:
        message = {"T": letter, "S": symbol, **row, "t": rfc3339(row["t"])}
        out.append((orjson.dumps([message]), PayloadKind.JSON, row["t"] + 5_000_000))
    return out


def record(store: Path, payloads: list[Payload], rejects: Path, stream: str = "stocks") -> None:
    async def go() -> None:
        async with rig(stream, 0, rejects) as r:
            await r.feed(payloads)
            await r.drain()
            assert r.state.read_committed()["rejected"] == 0
            mark_ended(r.run)
            await Recorder(r.run, StoreConfig(str(store), workers=0)).run()

    uvloop.run(go())


def test_history_and_recorded_rows_are_one_table(tmp_path: Path) -> None:
    """Record ten minutes twice, and also fetch the first five of them."""
    store = tmp_path / "store"
    for name in ("once", "again"):  # two runs, like two engines at the same time
        payloads = [p for what in ("trades", "quotes") for p in make_stream_payloads(what, "AAPL", SPAN)]
        record(store, payloads, tmp_path / name)
    with simulator("--rate", "1") as sim:
        settings: Any = {
            "data_url": sim.data_url,
            "backfill": {"workers": 0},
            "credentials": {"key_id": "k", "secret_key": "s"},
        }
        for dataset in ("stocks.trades", "stocks.quotes"):
            mdstream.backfill(
                dataset, ["AAPL"], SPAN[0], MIDDLE, store=store, feed="sip", settings=settings
            )
    for dataset in ("stocks.trades", "stocks.quotes"):
        whole = mdstream.scan(dataset, store).collect()
        expected = records("stocks", dataset[7:], "AAPL", *(parse_time(t, "") for t in SPAN))
        assert sorted(whole["ts"].dt.epoch("ns")) == [row["t"] for row in expected]
        fetched = whole.filter(pl.col("ts") < datetime.fromisoformat(MIDDLE))
        assert fetched.height, "fetched rows are in the table"
        part = mdstream.scan(
            dataset, store, symbols=["AAPL"], start="2026-01-05T15:03:00Z", end="2026-01-05T15:07:00Z"
        )
        assert part.select(pl.len()).collect().item() == sum(
            parse_time("2026-01-05T15:03:00Z", "") <= row["t"] < parse_time("2026-01-05T15:07:00Z", "")
            for row in expected
        )
        assert not mdstream.scan(dataset, store, symbols=["MSFT*"], unknown="empty").collect().height


def test_what_two_feeds_have_is_there_once(tmp_path: Path) -> None:
    with simulator("--rate", "1") as sim:
        settings: Any = {
            "data_url": sim.data_url,
            "backfill": {"workers": 0},
            "credentials": {"key_id": "k", "secret_key": "s"},
        }
        for dataset, row in (("stocks.trades", 300), ("stocks.quotes", 600), ("stocks.bars", 10)):
            for feed, span in (("iex", (SPAN[0], MIDDLE)), ("sip", SPAN)):
                mdstream.backfill(dataset, ["AAPL"], *span, store=tmp_path, feed=feed, settings=settings)
            every = mdstream.scan(dataset, tmp_path).collect()
            both = 15 if dataset == "stocks.bars" else 2 * row  # each feed has its own bars
            assert every.height == both, dataset
            assert every.select("symbol", "ts", "feed").is_unique().all()
            one = mdstream.scan(dataset, tmp_path, feed="iex").collect()
            assert one.height == both // 2 if dataset != "stocks.bars" else 5
            assert set(one["feed"]) == {"iex"}


def test_only_recorded_is_a_table_too(tmp_path: Path) -> None:
    store = tmp_path / "store"
    record(store, make_stream_payloads("trades", "AAPL", SPAN), tmp_path)
    found = mdstream.scan("stocks.trades", store).collect()
    assert found.height == len(make_stream_payloads("trades", "AAPL", SPAN))
    assert found.columns[:4] == ["feed", "date", "symbol", "ts"]
    assert mdstream.scan("stocks.bars_1m", store).collect().height


def test_trades_with_one_id_are_as_many_as_there_were(tmp_path: Path) -> None:
    """On exchange D, several reporting facilities share one letter, and their ids repeat."""
    store = tmp_path / "store"
    trade = {"T": "t", "S": "AAPL", "i": 7, "x": "D", "p": 100, "s": 10, "c": ["@"], "z": "C"}
    times = ["2026-01-05T14:30:00Z", "2026-01-05T14:30:01Z", "2026-01-05T14:30:02Z"]
    messages = [{**trade, "p": 100 + i, "t": at} for i, at in enumerate(times)]
    messages += [{**trade, "s": 20, "t": times[0]}]
    record(store, [(orjson.dumps(messages), PayloadKind.JSON, 10**18)], tmp_path)
    record(store, [(orjson.dumps(messages), PayloadKind.JSON, 10**18 + 1)], tmp_path)
    found = mdstream.scan("stocks.trades", store).sort("ts", "size").collect()
    assert list(zip(found["price"], found["size"], strict=True)) == [
        (100.0, 10),
        (100.0, 20),
        (101.0, 10),
        (102.0, 10),
    ]


def test_of_live_bars_the_last_update_counts(tmp_path: Path) -> None:
    store = tmp_path / "store"
    bar = {"S": "AAPL", "o": 1, "h": 2, "l": 1, "c": 2, "v": 10, "n": 3, "vw": 1.5}
    at = "2026-01-05T15:00:00Z"
    messages = [
        {"T": "b", **bar, "t": at},
        {"T": "u", **bar, "v": 12, "t": at},
        {"T": "d", **bar, "v": 99, "t": "2026-01-05T05:00:00Z"},
    ]
    payloads = [(orjson.dumps([m]), PayloadKind.JSON, 10**18 + i) for i, m in enumerate(messages)]
    record(store, payloads, tmp_path)
    minutes = mdstream.scan("stocks.bars", store, timeframe="1Min").collect()
    assert minutes["volume"].to_list() == [12]
    assert mdstream.scan("stocks.bars", store, timeframe="1Day").collect()["volume"].to_list() == [99]
    assert set(minutes["adjustment"]) == {"raw"}


def test_of_an_article_the_last_version_counts_from_any_source(tmp_path: Path) -> None:
    store, at = tmp_path / "store", "2026-01-05T15:00:00Z"
    with simulator("--rate", "1") as sim:
        settings: Any = {
            "data_url": sim.data_url,
            "backfill": {"workers": 0},
            "credentials": {"key_id": "k", "secret_key": "s"},
        }
        mdstream.backfill("news", [], "2026-01-05", "2026-01-05", store=store, settings=settings)
    fetched = mdstream.scan("news", store).collect()
    known = fetched.row(0, named=True)
    old = {
        "T": "n",
        "id": 1,
        "headline": "first",
        "summary": "",
        "author": "A",
        "content": "",
        "url": "u",
        "source": "b",
        "symbols": ["GOOG"],
        "created_at": at,
        "updated_at": at,
    }
    messages = [
        old,
        {**old, "headline": "second", "symbols": ["MSFT"], "updated_at": "2026-01-05T16:00:00Z"},
        {**old, "id": known["id"], "updated_at": "2026-01-09T16:00:00Z"},
    ]
    payloads = [(orjson.dumps([m]), PayloadKind.JSON, 10**18 + i) for i, m in enumerate(messages)]
    record(store, payloads, tmp_path, "news")
    whole = mdstream.scan("news", store).collect()
    assert whole.columns == fetched.columns
    assert whole.height == fetched.height + 1
    assert whole.filter(id=1)["headline"].to_list() == ["second"]
    # The recorded version is newer.
    assert whole.filter(id=known["id"])["headline"].to_list() == ["first"]
    assert mdstream.scan("news", store, symbols="GOOG").collect()["id"].to_list() == [known["id"]]


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("AAPL2612*C*", ["AAPL261204C00180000"]),
        ("*2612*P*0", ["AAPL261204P00180000"]),
        ("A?PL*", ["AAPL261204C00180000", "AAPL261204P00180000"]),
        ("[B-Z]*6*C*", ["SPY261204C00600000"]),
        ("A*X*C*", []),
    ],
)
def test_symbol_patterns_may_have_several_wildcards(pattern: str, fits: list[str]) -> None:
    symbols = pl.Series("symbol", ["AAPL261204C00180000", "AAPL261204P00180000", "SPY261204C00600000"])
    frame = symbols.to_frame().filter(matches(pl.col("symbol"), [pattern]))
    assert frame["symbol"].to_list() == fits


def test_bounds_of_a_range_are_exact_to_the_nanosecond(tmp_path: Path) -> None:
    store = tmp_path / "store"
    trade = {"T": "t", "S": "AAPL", "x": "V", "p": 100, "s": 10, "c": ["@"], "z": "C"}
    beyond = (456_500, 456_700, 457_000)
    messages = [{**trade, "i": i, "t": f"2026-01-05T14:30:00.123{i}Z"} for i in beyond]
    record(store, [(orjson.dumps(messages), PayloadKind.JSON, 10**18)], tmp_path)
    for bound in ("2026-01-05T14:30:00.123456700Z", "2026-01-05T14:30:00.1234567Z"):
        before = mdstream.scan("stocks.trades", store, end=bound).collect()
        since = mdstream.scan("stocks.trades", store, start=bound).collect()
        assert before["id"].to_list() == [456_500]
        assert sorted(since["id"]) == [456_700, 457_000]
