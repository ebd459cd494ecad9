"""Bars that are made from what `scan` returns are those that the run made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdstream
from mdstream.simulator.encode import rfc3339
from mdstream.store.schema import ROW
from mdstream.streams.spec import PayloadKind
from tests.fuzzing import examples
from tests.store.test_catalogue import record

START = 1_767_625_200 * 10**9  # 2026-01-05T15:00Z
RECEIVED = START + 10 * 10**9
NUMBERS = st.fixed_dictionaries({"i": st.sampled_from([7, 8]), "p": st.sampled_from([100.0, 101.0, 102.0])})
SECONDS = st.integers(0, 4)
Message = dict[str, Any]


def trade(number: Message, second: int) -> Message:
    at = rfc3339(START + second * 10**9)
    return {"T": "t", "S": "AAPL", "x": "D", "s": 10, "c": ["@"], "z": "C", **number, "t": at}


def cancel(number: Message, second: float, is_exact: bool = True) -> Message:
    at, rest = rfc3339(START + round(second * 10**9)), {} if is_exact else {"p": None, "s": None}
    message = {"T": "x", "S": "AAPL", "x": "D", "s": 10, "a": "C", "z": "C", **number, **rest}
    return {**message, "t": at}


def correct(number: Message, second: float, is_exact: bool, new: Message) -> Message:
    """Return a correction to a trade with a condition that counts in no bar."""
    old = cancel(number, second, is_exact)
    return {
        **{"T": "c", "S": "AAPL", "x": "D", "oi": old["i"], "op": old["p"], "os": old["s"], "oc": ["@"]},
        **{"ci": new["i"], "cp": new["p"], "cs": 10, "cc": ["M"], "z": "C", "t": old["t"]},
    }


TIMES = st.sampled_from([-3599.0, -1.0, 0.5, 1.5, 2.5, 9.0, 86_400.5, 86_402.5])
PAYLOADS = st.lists(
    st.one_of(
        st.lists(st.builds(trade, NUMBERS, SECONDS), min_size=1, max_size=4),
        st.builds(cancel, NUMBERS, TIMES, st.booleans()).map(lambda each: [each]),
        st.builds(correct, NUMBERS, TIMES, st.booleans(), NUMBERS).map(lambda each: [each]),
    ),
    min_size=2,
    max_size=14,
)


def record_payloads(store: Path, payloads: list[list[Message]], rejects: Path) -> None:
    """Record payloads, and a trade that is valid behind them: bars without any trade are not published."""
    payloads = [*payloads, [trade({"i": 9, "p": 1.0}, 9)]]
    received = [(orjson.dumps(p), PayloadKind.JSON, RECEIVED + n) for n, p in enumerate(payloads)]
    record(store, received, rejects)


def assert_bars_agree(store: Path) -> None:
    """Assert that the valid trades of each second are those of the last revision of its bar."""
    trades = mdstream.scan("stocks.trades", store).with_columns(pl.col("ts").dt.truncate("1s"))
    wanted = trades.group_by("ts").agg(
        pl.col("price").max().alias("high"),
        pl.col("price").min().alias("low"),
        pl.col("size").sum().alias("volume"),
        pl.len().cast(pl.Int64).alias("trade_count"),
    )
    bars = mdstream.scan("stocks.bars_1s", store, numbered=True).sort("recv_ts", ROW)
    last = bars.unique(["symbol", "ts"], keep="last", maintain_order=True).filter(pl.col("trade_count") > 0)
    found = last.select("ts", "high", "low", "volume", "trade_count").sort("ts").collect()
    assert found.rows() == wanted.sort("ts").collect().rows()


@pytest.mark.cases("I2")
@given(PAYLOADS)
@settings(max_examples=examples(60), deadline=None)
def test_a_scan_leaves_out_the_trades_that_the_bars_leave_out(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[list[Message]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    record_payloads(folder / "s", payloads, folder)
    assert_bars_agree(folder / "s")


NUMBER = {"i": 7, "p": 100.0}


@pytest.mark.cases("I2")
@pytest.mark.parametrize(
    ("payloads", "left"),
    [
        ([[trade(NUMBER, 2)], [trade(NUMBER, 1)], [cancel(NUMBER, 4)]], [2]),  # the last received
        ([[trade(NUMBER, 2), trade(NUMBER, 1)], [cancel(NUMBER, 4)]], [2]),  # also within a payload
        ([[trade(NUMBER, 3)], [cancel(NUMBER, 2)]], []),  # a cancel that is dated before its trade
        ([[cancel(NUMBER, 2)], [trade(NUMBER, 1)]], [1]),  # a trade that arrives later
        ([[trade(NUMBER, 3)], [cancel(NUMBER, -3599)]], [3]),  # out of reach
        ([[trade(NUMBER, 1)], [cancel(NUMBER, 4)], [cancel(NUMBER, 3)], [trade(NUMBER, 2)]], [2]),
        (
            [  # 8 names the corrected trade, not another one that has the same values
                [trade(NUMBER, 1)],
                [trade({"i": 8, "p": 101.0}, 2)],
                [correct(NUMBER, 4, True, {"i": 8, "p": 101.0})],
                [cancel({"i": 8, "p": 101.0}, 5)],
            ],
            [2],
        ),
    ],
)
def test_an_amendment_means_what_its_run_had_received(
    tmp_path: Path, payloads: list[list[Message]], left: list[int]
) -> None:
    record_payloads(tmp_path / "s", payloads, tmp_path)
    found = mdstream.scan("stocks.trades", tmp_path / "s").sort("ts").collect()
    assert found["ts"].dt.second().to_list() == [*left, 9]
    assert_bars_agree(tmp_path / "s")
