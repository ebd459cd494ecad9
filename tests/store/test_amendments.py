"""Trades that were cancelled or corrected later are left out, whoever says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from deltalake import write_deltalake

import mdstream
from mdstream.errors import StoreError
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from tests.store.test_catalogue import record
from tests.store.test_sources import Source, make_rows, write

DAY = "2026-01-05"
TRADE = {"T": "t", "S": "AAPL", "i": 7, "x": "D", "p": 100.0, "s": 10, "c": ["@"], "z": "C"}
CANCEL = {"T": "x", "S": "AAPL", "i": 7, "x": "D", "p": 100.0, "s": 10, "a": "C", "z": "C"}
CORRECTION = {"T": "c", "S": "AAPL", "x": "D", "oi": 7, "op": 100.0, "os": 10, "oc": ["@"], "ci": 8} | {
    "cp": 100.5,
    "cs": 11,
    "cc": ["@"],
    "z": "C",
}


def at(message: dict[str, Any], second: int, day: str = DAY, **more: Any) -> dict[str, Any]:
    return {**message, "t": f"{day}T14:30:{second:02d}Z", **more}


def record_messages(store: Path, rejects: Path, *messages: dict[str, Any]) -> None:
    payloads = [(orjson.dumps([m]), PayloadKind.JSON, 10**18 + n) for n, m in enumerate(messages)]
    record(store, payloads, rejects)


def prices(store: Path, **given: Any) -> list[float]:
    return mdstream.scan("stocks.trades", store, **given).sort("ts", "price").collect()["price"].to_list()


TRADES = (at(TRADE, 0), at(TRADE, 1, p=200.0, s=20), at(TRADE, 2, i=9, p=300.0))


@pytest.mark.cases("I2", "V3")
@pytest.mark.parametrize(
    ("amendment", "left"),
    [
        (at(CANCEL, 4), [200.0, 300.0]),
        (at(CANCEL, 4, p=200.0, s=20), [100.0, 300.0]),
        (at(CANCEL, 4, p=150.0), [100.0, 200.0, 300.0]),
        (at(CANCEL, 4, s=20), [100.0, 200.0, 300.0]),
        (at(CANCEL, 4, x="V"), [100.0, 200.0, 300.0]),
        (at(CANCEL, 4, S="MSFT"), [100.0, 200.0, 300.0]),
        (at(CANCEL, 4, p=None, s=None), [100.0, 300.0]),  # it names neither: the last one of the id
        (at(CORRECTION, 4), [200.0, 300.0]),
        (at(CORRECTION, 4, op=200.0, os=20), [100.0, 300.0]),
        (at(CANCEL, 4, day="2026-01-06"), [100.0, 200.0, 300.0]),
        (at(CANCEL, 0, day="2026-01-06"), [200.0, 300.0]),
        (at(CANCEL, 4, day="2026-01-04"), [100.0, 200.0, 300.0]),
    ],
)
def test_a_recorded_amendment_takes_its_trade_out(
    tmp_path: Path, amendment: dict[str, Any], left: list[float]
) -> None:
    store = tmp_path / "store"
    record_messages(store, tmp_path, *TRADES, amendment)
    assert prices(store) == left
    assert prices(store, amended=True) == [100.0, 200.0, 300.0]
    assert prices(store, symbols="AAPL", start=DAY, end=DAY) == left


def test_an_amendment_means_the_last_of_several_trades_and_counts_for_all_sources(tmp_path: Path) -> None:
    store = tmp_path / "store"
    record_messages(store, tmp_path, at(TRADE, 0), at(TRADE, 1), at(CANCEL, 4))
    record_messages(store, tmp_path, at(TRADE, 0), at(TRADE, 1))  # this run ended before the cancel
    rows = mdstream.scan("stocks.trades", store).collect()
    assert rows["ts"].dt.second().to_list() == [0]


@pytest.mark.cases("I2", "I3")
@pytest.mark.parametrize("amendment", [CANCEL, {**CANCEL, "p": None, "s": None}, CORRECTION])
@pytest.mark.parametrize(("trades", "amendments"), [(3, 1), (2, 2), (3, 2), (1, 2), (2, 3)])
def test_each_amendment_takes_one_of_equal_trades_from_scan_and_from_bars(
    tmp_path: Path, amendment: dict[str, Any], trades: int, amendments: int
) -> None:
    store, left = tmp_path / "store", max(0, trades - amendments)
    later = [at(TRADE, second, i=9, p=300.0) for second in (2, 6)]  # they publish the bar of the others
    messages = [*[at(TRADE, 0)] * trades, later[0], *[at(amendment, 4)] * amendments, later[1]]
    for _ in range(2):  # two runs that record the same are no more than one
        record_messages(store, tmp_path, *messages)
    assert prices(store) == [100.0] * left + [300.0, 300.0]
    bars = mdstream.scan("stocks.bars_1s", store).filter(pl.col("ts").dt.second() == 0).sort("recv_ts")
    corrected = min(trades, amendments) if amendment is CORRECTION else 0
    counts = bars.collect()["trade_count"].to_list() or [0]  # a bar without trades may never be published
    assert counts[-1] == left + corrected


def test_amendments_that_cannot_be_read_are_an_error_of_the_store(tmp_path: Path) -> None:
    record_messages(tmp_path / "store", tmp_path, *TRADES, at(CANCEL, 4))
    for file in (tmp_path / "store" / "live" / "stocks.cancels").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(StoreError, match=r"store: .*live cannot be read: "):
        mdstream.scan("stocks.trades", tmp_path / "store")


def write_history(
    store: Path, mark: str | None, feed: str = "sip", second: int = 5, count: int = 1
) -> None:
    rows = make_rows(STREAMS["stocks"].by_name["trades"], Source(False, feed, None, [(second, 1)] * count))
    rows = rows.with_columns(pl.lit(mark, pl.String).alias("update"))
    write_deltalake(
        store / "stocks.trades",
        rows.to_arrow(),
        mode="append",
        partition_by=["feed", "date"],
        schema_mode="merge",
    )


@pytest.mark.cases("V3")
@pytest.mark.parametrize("mark", ["canceled", "corrected", "incorrect", "Canceled", "busted"])
def test_a_trade_that_history_marks_is_left_out_unless_asked_for(tmp_path: Path, mark: str) -> None:
    write_history(tmp_path, mark)
    write_history(tmp_path, None, second=6)
    assert mdstream.scan("stocks.trades", tmp_path).collect()["ts"].dt.second().to_list() == [6]
    every = mdstream.scan("stocks.trades", tmp_path, amended=True).sort("ts").collect()
    assert every["update"].to_list() == [mark, None]


@pytest.mark.cases("V3")
@pytest.mark.parametrize("mark", [None, "", " "])
def test_a_trade_without_a_mark_is_valid(tmp_path: Path, mark: str | None) -> None:
    write_history(tmp_path, mark)
    assert mdstream.scan("stocks.trades", tmp_path).collect().height == 1


@pytest.mark.cases("V3")
@pytest.mark.parametrize("other", ["another feed", "a run", "a feed without the mark, first"])
def test_the_mark_of_one_source_takes_out_the_trade_of_all(tmp_path: Path, other: str) -> None:
    write_history(tmp_path, "canceled")
    if other == "a run":
        write(tmp_path, "stocks.trades", [Source(True, "iex", "a", [(5, 1), (6, 1)])])
    else:
        write_history(tmp_path, None, "boats" if "first" in other else "test")
        write_history(tmp_path, None, second=6)
    assert mdstream.scan("stocks.trades", tmp_path).collect()["ts"].dt.second().to_list() == [6]


@pytest.mark.cases("I3", "V3")
@pytest.mark.parametrize("others", [0, 2, 3])
def test_a_mark_takes_one_of_equal_trades(tmp_path: Path, others: int) -> None:
    write_history(tmp_path, "canceled")
    write_history(tmp_path, None, count=2)
    write(tmp_path, "stocks.trades", [Source(True, "iex", "a", [(5, 1)] * others)])
    rows = mdstream.scan("stocks.trades", tmp_path).collect()
    assert rows.height == 2
    assert mdstream.scan("stocks.trades", tmp_path, amended=True).collect().height == 3


@pytest.mark.cases("V3")
def test_an_export_leaves_amended_trades_out(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from mdstream.cli.app import app

    write_history(tmp_path / "store", "canceled")
    write_history(tmp_path / "store", None, second=6)
    command = ["export", "stocks.trades", "--store", str(tmp_path / "store"), "--to"]
    for flags, rows in (((), 1), (("--amended",), 2)):
        to = tmp_path / f"{rows}.parquet"
        assert CliRunner().invoke(app, [*command, str(to), *flags]).exit_code == 0
        assert pl.read_parquet(to).height == rows
