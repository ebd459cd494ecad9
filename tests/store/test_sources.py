"""`scan` returns of each event as many rows as the source that has most, as a plain multiset does."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

import mdstream
from mdstream.store.schema import NS_SUFFIX, RUN, polars_schema
from mdstream.streams import STREAMS
from mdstream.streams.spec import RECV_TS, Channel, Kind
from tests.fuzzing import examples

DAY = 1_767_571_200  # 2026-01-05
Event = tuple[int, int]
"""The second of an event, and a number for all its other values."""


class Source(NamedTuple):
    """A source of a dataset: the history of a feed, or a run; a run without a name is of version 0.2.0."""

    is_recorded: bool
    feed: str
    run: str | None
    events: list[Event]


EVENTS = st.lists(st.tuples(st.sampled_from([5, 6, 86_405]), st.integers(0, 1)), max_size=6)
HISTORIES = st.lists(EVENTS, max_size=2).map(
    lambda each: [
        Source(False, feed, None, events) for feed, events in zip(("iex", "sip"), each, strict=False)
    ]
)
RUNS = st.lists(st.tuples(st.sampled_from(["iex", "sip"]), EVENTS), max_size=3).map(
    lambda each: [Source(True, feed, f"run{n}", events) for n, (feed, events) in enumerate(each)]
)
SOURCES = st.tuples(HISTORIES, RUNS).map(lambda each: [*each[0], *each[1]])
_received = itertools.count(1)


def make_rows(channel: Channel, source: Source) -> pl.DataFrame:
    """Return the stored rows of a source. Every row is received at another time."""
    kinds = polars_schema(channel)
    rows = []
    for second, number in source.events:
        row: dict[str, Any] = {}
        for column in channel.columns:
            value: Any = float(number) if column.kind is Kind.FLOAT else number
            if column.name == "symbol":
                value = "AAPL"
            elif column.kind in (Kind.CODE, Kind.CONDITIONS):
                value = str(number) if number else None  # null equals null
            if column.name == "update":
                value = None  # a text in it would say that the trade is not valid
            if column.kind is Kind.TIME:
                at = (
                    (DAY + second) * 10**6 if column.name != RECV_TS.name else DAY * 10**6 + next(_received)
                )
                row |= {column.name: at, column.name + NS_SUFFIX: 7}
            else:
                row[column.name] = value
        rows.append({name: row[name] for name in kinds})
    frame = pl.DataFrame(rows, {n: pl.Int64 if k == pl.Datetime else k for n, k in kinds.items()})
    day = pl.col(channel.time).dt.date().alias("date")
    run = [pl.lit(source.run).alias(RUN)] if source.run is not None else []
    return frame.cast(dict(kinds)).select(pl.lit(source.feed).alias("feed"), day, *run, pl.all())


def write(store: Path, dataset: str, sources: Sequence[Source]) -> None:
    """Write sources as the backfill and the recorder do."""
    stream, _, name = dataset.partition(".")
    for source in sources:
        if source.events:
            rows = make_rows(STREAMS[stream].by_name[name], source)
            folder = store / "live" / dataset if source.is_recorded else store / dataset
            write_deltalake(
                folder, rows.to_arrow(), mode="append", partition_by=["feed", "date"], schema_mode="merge"
            )


def model(sources: Sequence[Source], is_per_feed: bool) -> Counter[tuple[Any, ...]]:
    """Return the greatest count of each event."""
    most: Counter[tuple[Any, ...]] = Counter()
    for source in sources:
        most |= Counter((source.feed if is_per_feed else "", *event) for event in source.events)
    return most


def found(store: Path, dataset: str, is_per_feed: bool, **given: Any) -> Counter[tuple[Any, ...]]:
    rows = mdstream.scan(dataset, store, unknown="empty", **given).collect()
    second = ((pl.col("ts").dt.epoch("ns") - 7) // 10**9 - DAY).alias("second")
    number = pl.col("price" if "price" in rows.columns else "bid_price").cast(pl.Int64)
    feed = pl.col("feed") if is_per_feed else pl.lit("")
    return Counter(rows.select(feed, second, number).rows())


@pytest.mark.cases("I1", "I3")
@pytest.mark.parametrize("dataset", ["stocks.trades", "options.trades", "stocks.quotes", "crypto.trades"])
@given(SOURCES)
@settings(max_examples=examples(15), deadline=None)
def test_any_mixture_of_sources_is_their_greatest_counts(
    tmp_path_factory: pytest.TempPathFactory, dataset: str, sources: list[Source]
) -> None:
    store, is_per_feed = tmp_path_factory.mktemp("store"), not dataset.startswith("stocks")
    if not any(source.events for source in sources):
        return
    write(store, dataset, sources)
    assert found(store, dataset, is_per_feed) == model(sources, is_per_feed)
    of_sip = [source for source in sources if source.feed == "sip"]
    assert found(store, dataset, is_per_feed, feed="sip") == model(of_sip, is_per_feed)
    late = [s._replace(events=[e for e in s.events if e[0] > 5]) for s in sources]
    span = {"start": "2026-01-05T00:00:05.5Z", "symbols": "AAPL"}
    assert found(store, dataset, is_per_feed, **span) == model(late, is_per_feed)


@pytest.mark.cases("I3")
def test_prints_of_a_sweep_are_as_many_as_there_were(tmp_path: Path) -> None:
    """Options have no id, and their times are multiples of 256 ns."""
    sweep = [(5, 1)] * 3
    write(tmp_path, "options.trades", [Source(True, "opra", "a", sweep)])
    assert mdstream.scan("options.trades", tmp_path).collect().height == 3
    write(tmp_path, "options.trades", [Source(False, "opra", None, sweep[:2])])
    assert mdstream.scan("options.trades", tmp_path).collect().height == 3
    write(tmp_path, "options.trades", [Source(True, "opra", "b", sweep * 2)])
    assert mdstream.scan("options.trades", tmp_path).collect().height == 6


def test_rows_of_both_come_from_history(tmp_path: Path) -> None:
    both = [Source(True, "sip", "a", [(5, 1), (6, 1)]), Source(False, "iex", None, [(5, 1)])]
    write(tmp_path, "stocks.trades", both)
    rows = mdstream.scan("stocks.trades", tmp_path).sort("ts").collect()
    assert rows["feed"].to_list() == ["iex", "sip"]
    assert "run" not in rows.columns


def test_rows_without_a_run_are_merged_unless_they_were_received_together(tmp_path: Path) -> None:
    """Version 0.2.0 did not note the run."""
    rows = make_rows(STREAMS["options"].by_name["trades"], Source(True, "opra", None, [(5, 1)]))
    for payload in (
        pl.concat([rows, rows]),
        rows.with_columns(recv_ts=pl.col("recv_ts") + pl.duration(hours=1)),
    ):
        write_deltalake(
            tmp_path / "live" / "options.trades",
            payload.to_arrow(),
            mode="append",
            partition_by=["feed", "date"],
        )
    assert mdstream.scan("options.trades", tmp_path).collect().height == 2
    write(tmp_path, "options.trades", [Source(True, "opra", "a", [(5, 1)] * 3)])
    assert mdstream.scan("options.trades", tmp_path).collect().height == 3


def test_days_with_one_source_are_read_as_they_are(tmp_path: Path) -> None:
    here, next_day = (5, 1), (86_405, 1)
    write(
        tmp_path,
        "stocks.trades",
        [Source(False, "sip", None, [here]), Source(True, "sip", "a", [next_day])],
    )
    plan = mdstream.scan("stocks.trades", tmp_path).explain()
    assert "JOIN" not in plan
    assert "UNIQUE" not in plan
    write(tmp_path, "stocks.trades", [Source(True, "sip", "b", [next_day])])
    assert "JOIN" in mdstream.scan("stocks.trades", tmp_path).explain()
    assert found(tmp_path, "stocks.trades", False) == Counter([("", *here), ("", *next_day)])
