"""Rows that a server returns although they were not requested: left out, counted and reported."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mdstream
from mdstream.cli.backfill_view import show_end
from mdstream.history.request import Shard, make_request
from mdstream.history.status import Status
from mdstream.store.query import parse_time
from tests.history.service import Query, bar, fill, serve, trade
from tests.history.test_request import NOW

TIMES = ("2026-01-05T15:00:00.25Z", "2026-01-05T15:00:00.75Z", "2026-01-06T15:00:00Z")


def read(store: Path, dataset: str = "stocks.trades", **given: Any) -> pl.DataFrame:
    return mdstream.scan(dataset, store, **given).collect()


def quote(time: str) -> dict[str, Any]:
    side = {"p": 1.5, "s": 1, "x": "V"}
    return {"t": time, **{a + b: value for a in "ba" for b, value in side.items()}, "c": ["R"], "z": "C"}


RECORDS = {
    "stocks.trades": [trade(time, number) for number, time in enumerate(TIMES)],
    "stocks.quotes": [quote(time) for time in TIMES],
    "crypto.trades": [trade(time, number) for number, time in enumerate(TIMES)],
    "stocks.bars": [bar(f"2026-01-05T15:0{minute}:00Z") for minute in range(3)],
}


def answer_all(path: str, query: Query) -> Any:
    """Answer each request with all records, whatever its times."""
    what = path.rpartition("/")[2]
    dataset = f"{'crypto' if 'crypto' in path else 'stocks'}.{what}"
    return {what: {query["symbols"]: RECORDS[dataset]}, "next_page_token": None}


@pytest.mark.cases("I4")
@pytest.mark.parametrize("dataset", ["stocks.trades", "stocks.quotes", "crypto.trades"])
def test_a_row_is_stored_in_the_shard_of_its_time_alone(
    dataset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(answer_all) as service:
        done = fill(service, tmp_path, dataset, "AAPL", "2026-01-05", "2026-01-06")
    assert (done.stored, done.other_times, done.other_symbols) == (3, 3, 0)
    assert read(tmp_path, dataset).height == 3
    assert read(tmp_path, dataset, start="2026-01-06").height == 1
    assert read(tmp_path, dataset, end="2026-01-05").height == 2
    said = f"{dataset}: rows left out that were not requested: 3 outside the requested time"
    assert [each.message for each in caplog.records if "not requested" in each.message] == [said]


@pytest.mark.cases("I4")
def test_a_server_that_works_to_whole_seconds_doubles_nothing(tmp_path: Path) -> None:
    """Ranges that meet within a second are both answered with all of it."""
    cuts = ["2026-01-05T15:00:00Z", "2026-01-05T15:00:00.5Z", "2026-01-05T15:00:01Z"]
    with serve(answer_all) as service:
        for start, end in itertools.pairwise(cuts):
            fill(service, tmp_path, "stocks.trades", "AAPL", start, end)
    assert sorted(read(tmp_path)["id"]) == [0, 1]


@pytest.mark.cases("I4")
def test_bars_outside_are_counted_but_not_those_that_the_query_includes(tmp_path: Path) -> None:
    with serve(answer_all) as service:
        done = fill(
            service, tmp_path, "stocks.bars", "AAPL", "2026-01-05T15:01:00Z", "2026-01-05T15:02:00Z"
        )
    assert (done.stored, done.other_times) == (1, 2)
    request = make_request(
        "stocks.bars", "AAPL", "2026-01-05T14:10Z", "2026-01-05T15:30Z", now=NOW, timeframe="1Hour"
    )
    shard = Shard("AAPL", request.first, request.past)
    first, past = request.queried_span(shard)
    assert first == parse_time("2026-01-05T13:10:00Z", "") + 1, "a bar that is not over at the start"
    assert past == parse_time("2026-01-05T16:00:00Z", ""), "the last bar is requested in full"
    assert request.row_span(shard) == (request.first, request.past)


def test_an_article_that_was_updated_later_is_stored_and_found_by_its_own_time(tmp_path: Path) -> None:
    article = {
        "id": 1,
        "created_at": "2025-12-30T10:00:00Z",
        "updated_at": "2026-01-05T10:00:00Z",
        "headline": "x",
        "symbols": ["AAPL"],
    }

    with serve(lambda path, query: {"news": [article], "next_page_token": None}) as service:
        done = fill(service, tmp_path, "news", [], "2026-01-05", "2026-01-06")
    assert done.other_times == 0
    assert read(tmp_path, "news").height == 1
    assert read(tmp_path, "news", start="2025-12-30", end="2025-12-30").height == 1
    assert read(tmp_path, "news", start="2026-01-01").height == 0


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        (
            (2, 1),
            "  rows left out that were not requested: 2 of other symbols, 1 outside the requested time",
        ),
        ((0, 1_000), "  rows left out that were not requested: 1,000 outside the requested time"),
        ((0, 0), None),
    ],
)
def test_the_summary_counts_rows_that_were_not_requested(
    counts: tuple[int, int], line: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    request = make_request("stocks.trades", "AAPL", "2026-01-05", "2026-01-06", now=NOW)
    status = Status(shards=1, other_symbols=counts[0], other_times=counts[1])
    show_end(request, status, False, None, as_json=False)
    found = [text for text in capsys.readouterr().out.splitlines() if "not requested" in text]
    assert found == ([line] if line else [])
