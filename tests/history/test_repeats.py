"""Rows that pages repeat are stored once, also across files, and the log says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mdstream
from mdstream.history import filing
from tests.history.service import Query, bar, fill, serve, trade
from workers import repeats

TIME = "2026-01-05T15:00:00Z"


@pytest.mark.cases("I4")
@pytest.mark.parametrize(("other", "is_said"), [(11.0, True), (10.0, False)])
def test_bars_that_differ_from_the_first_of_their_start_are_reported(
    other: float, is_said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"bars": {"AAPL": [bar(TIME, 10.0), bar(TIME, other)]}, "next_page_token": None}
    with serve(lambda path, query: body) as service:
        done = fill(service, tmp_path, "stocks.bars", "AAPL", TIME, "2026-01-05T15:01:00Z")
    assert (done.stored, done.repeated) == (1, 1)
    assert ("whose values differ from the first, which is kept: 1" in caplog.text) is is_said


@pytest.mark.cases("I4")
@pytest.mark.parametrize(
    "pages",
    [
        [[1], [2], [3], [1, 4]],
        [[1], [2], [2], [3], [1], [2, 3, 4]],
        [[1, 2], [3], [1], [2]],  # the second file has no row of its own
        [[1], [2], [3], [4]],
    ],
)
@pytest.mark.parametrize("dataset", ["stocks.trades", "stocks.bars"])
def test_rows_of_two_files_are_compared(
    pages: list[list[int]],
    dataset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Pages of one shard become several files: here two pages each."""
    monkeypatch.setattr(filing, "_ROWS_PER_PAGE", filing.ROWS_PER_FILE // 2)
    channel = dataset.partition(".")[2]

    def answer(path: str, query: Query) -> Any:
        number, symbol = int(query.get("page_token", "0")), query["symbols"]
        more = str(number + 1) if number + 1 < len(pages) else None
        make = trade if channel == "trades" else lambda time, minute: bar(time)
        records = [make(f"2026-01-05T15:0{minute}:00Z", minute) for minute in pages[number]]
        return {channel: {symbol: records}, "next_page_token": more}

    symbols = ["AAPL", "MSFT"]
    with serve(answer) as service:
        done = fill(service, tmp_path, dataset, symbols, "2026-01-05T15:00:00Z", "2026-01-05T16:00:00Z")
    every = [minute for page in pages for minute in page]
    assert done.repeated == 2 * (len(every) - len(set(every)))
    rows = mdstream.scan(dataset, tmp_path).collect()
    found = sorted(zip(rows["symbol"].to_list(), rows["ts"].dt.minute().to_list(), strict=True))
    assert found == sorted((symbol, minute) for symbol in symbols for minute in set(every))
    assert len(list((tmp_path / dataset).rglob("*.parquet"))) == done.files
    assert ("rows that the service sent again" in caplog.text) is (done.repeated > 0)


@pytest.mark.cases("I4", "V3")
@pytest.mark.parametrize(("pages_a_file", "rows_a_group"), [(1, 1), (2, 1), (3, 2), (3, 131_072)])
@pytest.mark.parametrize("marked_at", [0, 1, 2])
def test_a_trade_that_is_marked_between_two_pages_is_stored_once_with_the_mark(
    marked_at: int, rows_a_group: int, pages_a_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page repeats the last trade of the page before; one of its copies has the mark."""
    monkeypatch.setattr(repeats, "_ROWS_A_GROUP", rows_a_group)
    monkeypatch.setattr(filing, "_ROWS_PER_PAGE", filing.ROWS_PER_FILE // pages_a_file)
    pages = [[0, 1], [1, 2], [1, 3]]

    def answer(path: str, query: Query) -> Any:
        at, symbol = int(query.get("page_token", "0")), query["symbols"]
        records = [trade(f"2026-01-05T15:0{number}:00Z", number) for number in pages[at]]
        for record in records:
            if record["i"] == 1 and at == marked_at and symbol == "AAPL":
                record["u"] = "canceled"
        more = str(at + 1) if at + 1 < len(pages) else None
        return {"trades": {symbol: records}, "next_page_token": more}

    span = "2026-01-05T15:00:00Z", "2026-01-05T16:00:00Z"
    with serve(answer) as service:
        done = fill(service, tmp_path, "stocks.trades", ["AAPL", "MSFT"], *span)
    assert (done.stored, done.repeated) == (8, 4)
    rows = mdstream.scan("stocks.trades", tmp_path, amended=True).collect()
    assert sorted(rows.select("symbol", "id", pl.col("update").cast(pl.String)).rows()) == [
        ("AAPL", 0, None),
        ("AAPL", 1, "canceled"),
        *(("AAPL", number, None) for number in (2, 3)),
        *(("MSFT", number, None) for number in range(4)),
    ]
    valid = mdstream.scan("stocks.trades", tmp_path, symbols="AAPL").collect()
    assert sorted(valid["id"].to_list()) == [0, 2, 3]
