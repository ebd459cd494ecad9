"""If rows have equal times, the one that arrived later counts, however the store keeps them."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

import mdstream
from mdstream.handoff.record_ticket import CompactTicket
from mdstream.recording import recorder
from mdstream.simulator.encode import rfc3339
from mdstream.simulator.replay.stored_range import StoredRange
from mdstream.store.export import export_file
from mdstream.store.schema import ROW
from mdstream.streams.spec import PayloadKind
from tests.fuzzing import examples
from tests.store.test_catalogue import record
from workers.recording import compact

START = 1_767_625_200 * 10**9  # 2026-01-05T15:00Z
MINUTE = 60 * 10**9
BAR = {"T": "b", "o": 1, "h": 2, "l": 1, "c": 2, "n": 3, "vw": 1.5}
ARTICLE = {
    "T": "n",
    "summary": "",
    "author": "A",
    "content": "",
    "url": "u",
    "source": "b",
    "symbols": ["A"],
}
TRADE = {"T": "t", "S": "AAPL", "x": "D", "s": 10, "c": ["@"], "z": "C"}

UPDATES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=6)
"""Payloads of updates, each with the number of what it updates."""


def make_payloads(payloads: list[list[dict[str, Any]]], times: list[int]) -> list[Any]:
    return [
        (orjson.dumps(messages), PayloadKind.JSON, recv)
        for messages, recv in zip(payloads, times, strict=True)
    ]


@pytest.mark.parametrize("dataset", ["stocks.bars", "news.articles"])
@given(UPDATES, st.integers(1, 5), st.integers(0, 1))
@settings(max_examples=examples(12), deadline=None)
def test_the_last_of_equal_times_counts_however_it_was_stored(
    tmp_path_factory: pytest.TempPathFactory, dataset: str, updates: list[list[int]], rows: int, apart: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    last, payloads, number = dict[int, int](), [], 0
    for which in updates:
        messages = []
        for each in which:
            number += 1
            last[each] = number
            at = rfc3339(START + each * MINUTE)
            bar = {**BAR, "S": "AAPL", "v": number, "t": at}
            article = {**ARTICLE, "id": each, "headline": str(number), "created_at": at, "updated_at": at}
            messages.append(bar if dataset == "stocks.bars" else article)
        payloads.append(messages)
    times = [START + apart * n for n in range(len(payloads))]
    stream, value = ("stocks", "volume") if dataset == "stocks.bars" else ("news", "headline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "MOST_ROWS", rows)
        record(folder / "s", make_payloads(payloads, times), folder, stream)
    found = mdstream.scan(dataset, folder / "s").collect()
    assert sorted(map(int, found[value])) == sorted(last.values())
    if dataset == "stocks.bars":
        replayed = StoredRange(str(folder / "s"), ["stocks"]).slices("stocks", {"bars": ["*"]})
        assert sorted(m["v"] for piece in replayed for _, m in piece) == sorted(last.values())


@pytest.mark.parametrize("shared", [1, 1000])
def test_rows_of_one_time_leave_the_store_as_they_came(
    tmp_path: Path, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All trades have one time; payloads have one trade each, or all of them."""
    store, count = tmp_path / "store", 1000
    prices = random.Random(1).sample(range(1, 10_000), count)
    trades = [{**TRADE, "i": n, "p": price, "t": rfc3339(START)} for n, price in enumerate(prices)]
    payloads = [trades[n : n + shared] for n in range(0, count, shared)]
    times = [START + n // 2 for n in range(len(payloads))]
    monkeypatch.setattr(recorder, "MOST_ROWS", 300)
    record(store, make_payloads(payloads, times), tmp_path)
    rows = mdstream.scan("stocks.trades", store, numbered=True)
    assert rows.collect().sort(ROW)["price"].to_list() == prices
    assert (
        mdstream.scan("stocks.trades", store).collect().columns == rows.drop(ROW).collect_schema().names()
    )
    export_file(rows, tmp_path / "x.parquet")
    assert pl.read_parquet(tmp_path / "x.parquet")["price"].to_list() == prices
    assert ROW not in pl.read_parquet_schema(tmp_path / "x.parquet")
    replayed = StoredRange(str(store), ["stocks"]).slices("stocks", {"trades": ["*"]})
    assert [m["p"] for piece in replayed for _, m in piece] == prices
    assert (
        StoredRange(str(store), ["stocks"]).state("stocks", ["AAPL"])["AAPL"]["latestTrade"]["p"]
        == prices[0]
    )


def test_the_last_row_of_a_built_bar_is_the_valid_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late trades revise a second again and again, and each commit has one row."""
    store = tmp_path / "store"
    late = [{**TRADE, "i": n, "p": 100 + n, "t": rfc3339(START)} for n in range(8)]
    clock = [{**TRADE, "i": 99 + n, "p": 1, "t": rfc3339(START + (n + 2) * 10**9)} for n in range(8)]
    payloads = [[message for pair in zip(late, clock, strict=True) for message in pair]]
    monkeypatch.setattr(recorder, "MOST_ROWS", 1)
    record(store, make_payloads(payloads, [START]), tmp_path)
    scanned = mdstream.scan("stocks.bars_1s", store, numbered=True).sort("recv_ts", ROW)
    bars = scanned.filter(pl.col("ts") == datetime.fromtimestamp(START / 1e9, UTC))
    every = bars.collect()
    assert every["recv_ts"].n_unique() == 1 < every.height
    valid = bars.unique(["symbol", "ts"], keep="last", maintain_order=True).collect()
    assert valid["trade_count"].to_list() == [8]


def test_a_table_without_numbers_gains_them_and_keeps_the_order_within_files(tmp_path: Path) -> None:
    store, at = tmp_path / "store", rfc3339(START)
    updates = [{**BAR, "S": "AAPL", "v": n + 1, "t": at} for n in range(200)]
    record(store, make_payloads([updates], [START]), tmp_path)
    table = store / "live" / "stocks.bars"
    old = pl.read_delta(str(table)).drop(ROW)
    for folder in table.rglob("*"):
        if folder.is_file():
            folder.unlink()
    old.write_delta(str(table), delta_write_options={"partition_by": ["feed", "date"]})
    assert mdstream.scan("stocks.bars", store).collect()["volume"].to_list() == [200]
    assert mdstream.scan("stocks.bars", store, numbered=True).collect()[ROW].to_list() == [None]
    record(store, make_payloads([[{**updates[0], "v": 7}, {**updates[0], "v": 5}]], [START + 1]), tmp_path)
    for _ in range(2):
        assert mdstream.scan("stocks.bars", store).collect()["volume"].to_list() == [5]
        compact(CompactTicket(str(table), 0, {}))
    assert DeltaTable(table).to_pyarrow_table()[ROW].null_count == 200
