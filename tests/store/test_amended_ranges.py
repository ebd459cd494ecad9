"""Which trades are amended does not depend on what is asked for: a model of any mixture of sources."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
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
from tests.fuzzing import examples
from tests.store.test_amendments import CANCEL, CORRECTION, TRADE, at, record_messages

START = 1_767_623_400  # 2026-01-05T14:30Z
DAY_S, HOUR_S = 86_400, 3_600
Trade = tuple[int, int, str | None]
"""The second after `START`, the price and the mark; symbol, id, exchange and size are always the same."""
Amendment = tuple[str, int, int | None]
"""Its channel, its second, and the price of its trade, if it has one."""


class Source(NamedTuple):
    feed: str
    run: str | None
    """None: history of the feed."""
    trades: list[Trade]
    amendments: list[Amendment]


SECONDS, PRICES = st.sampled_from([0, 1, 2, DAY_S, DAY_S + 1]), st.sampled_from([1, 2])
AMENDMENTS = st.tuples(
    st.sampled_from(["cancels", "corrections"]),
    st.sampled_from([1, 2, 3, DAY_S + 1, DAY_S + 2]),
    st.one_of(PRICES, st.none()),
)
HISTORIES = st.builds(
    Source,
    st.sampled_from(["iex", "sip"]),
    st.none(),
    st.lists(
        st.tuples(SECONDS, PRICES, st.sampled_from([None, None, "canceled", "incorrect"])), max_size=4
    ),
    st.just([]),
)
RUNS = st.builds(
    Source,
    st.sampled_from(["iex", "sip"]),
    st.sampled_from(["a", "b"]),
    st.lists(st.tuples(SECONDS, PRICES, st.none()), max_size=4),
    st.lists(AMENDMENTS, max_size=3),
)
SOURCES = st.tuples(
    st.lists(HISTORIES, max_size=2, unique_by=lambda each: each.feed),
    st.lists(RUNS, max_size=2, unique_by=lambda each: each.run),
).map(lambda each: [*each[0], *each[1]])


def write_rows(store: Path, name: str, source: Source, rows: list[dict[str, Any]]) -> None:
    """Write rows of a source, which have a `second` and some values."""
    kinds = polars_schema(STREAMS["stocks"].by_name[name])
    alike = {
        "symbol": "AAPL",
        "exchange": "D",
        "id": 7,
        "original_id": 7,
        "size": 10.0,
        "original_size": 10.0,
    }
    stored = []
    for row in rows:
        us = (START + row["second"]) * 10**6
        values = {**alike, "ts": us, "recv_ts": us, **row}
        stored.append({n: 0 if n.endswith(NS_SUFFIX) else values.get(n) for n in kinds})
    frame = pl.DataFrame(stored, {n: pl.Int64 if k == pl.Datetime else k for n, k in kinds.items()})
    run = [] if source.run is None else [pl.lit(source.run).alias(RUN)]
    frame = frame.cast(dict(kinds)).select(
        pl.lit(source.feed).alias("feed"), pl.col("ts").dt.date().alias("date"), *run, pl.all()
    )
    folder = store / ("" if source.run is None else "live") / f"stocks.{name}"
    write_deltalake(folder, frame.to_arrow(), mode="append", partition_by=["feed", "date"])


def write(store: Path, sources: list[Source]) -> None:
    for source in sources:
        trades = [{"second": s, "price": float(p), "update": mark} for s, p, mark in source.trades]
        if trades:
            write_rows(store, "trades", source, trades)
        for name, price in (("cancels", "price"), ("corrections", "original_price")):
            found = [each for each in source.amendments if each[0] == name]
            rows = [{"second": s, price: None if p is None else float(p)} for _, s, p in found]
            if rows:
                write_rows(store, name, source, rows)


def count_amended(sources: list[Source]) -> Counter[tuple[int, int]]:
    """Return how many copies of each trade are amended, by its second and price."""
    most: Counter[tuple[int, int]] = Counter()
    marked: Counter[tuple[int, int]] = Counter()
    most_of: dict[Amendment, tuple[int, str, str]] = {}
    for source in sources:
        most |= Counter((second, price) for second, price, _ in source.trades)
        marked |= Counter((second, price) for second, price, mark in source.trades if mark)
        for amendment, count in Counter(source.amendments).items():
            known = (-count, source.feed, source.run or "")
            most_of[amendment] = min(known, most_of.get(amendment, known))
    own = {(s.feed, s.run): Counter((t, p) for t, p, _ in s.trades) for s in sources if s.run is not None}
    left, amended = most - marked, marked.copy()
    chosen = [(each[1], each[2] or 3, *by[1:]) for each, by in most_of.items() for _ in range(-by[0])]
    for when, price, *by in sorted(chosen):
        meant = [t for t in most if price in (3, t[1]) and when - DAY_S <= t[0] <= when + HOUR_S]
        mine = own[by[0], by[1]]
        received = {trade: n for trade, n in mine.items() if n and trade[0] <= when}
        marks = [trade for trade in meant if marked[trade]]
        ours = [trade for trade in meant if left[trade] and trade in received]
        others = [trade for trade in meant if left[trade] > mine[trade]]
        if not (found := marks or ours or others):
            continue
        trade = max(found)
        (marked if marks else left)[trade] -= 1
        amended[trade] += not marks
        mine[trade] -= trade in received
    return amended


def model(sources: list[Source], feed: str = "") -> Counter[tuple[int, int]]:
    """Return the valid trades of a feed, by second and price."""
    most: Counter[tuple[int, int]] = Counter()
    for source in sources:
        if feed in ("", source.feed):
            most |= Counter((second, price) for second, price, _ in source.trades)
    return most - count_amended(sources)


def found(store: Path, **given: Any) -> Counter[tuple[int, int]]:
    rows = mdstream.scan("stocks.trades", store, unknown="empty", **given).collect()
    return Counter(rows.select(pl.col("ts").dt.epoch("s") - START, pl.col("price").cast(pl.Int64)).rows())


@pytest.mark.cases("I2", "V3")
@given(SOURCES)
@settings(max_examples=examples(60), deadline=None)
def test_a_scan_of_a_range_is_the_full_scan_filtered_by_that_range(
    tmp_path_factory: pytest.TempPathFactory, sources: list[Source]
) -> None:
    if not any(source.trades for source in sources):
        return
    store = tmp_path_factory.mktemp("store")
    write(store, sources)
    every = model(sources)
    assert found(store) == every
    assert found(store, feed="iex") == model(sources, "iex")
    for first, past in ((0, 1), (1, 3), (0, DAY_S), (2, DAY_S + 1), (DAY_S, DAY_S + 2)):
        bounds = [datetime.fromtimestamp(START + second, UTC) for second in (first, past)]
        inside = Counter({trade: n for trade, n in every.items() if first <= trade[0] < past})
        assert found(store, start=bounds[0], end=bounds[1]) == inside
        start = Counter({trade: n for trade, n in every.items() if first <= trade[0]})
        assert found(store, start=bounds[0], symbols="AAPL") == start


def write_history(store: Path, *trades: Trade, feed: str = "sip") -> None:
    write(store, [Source(feed, None, list(trades), [])])


@pytest.mark.cases("I2", "V3")
@pytest.mark.parametrize("order", ["recorded first", "fetched first"])
@pytest.mark.parametrize(
    ("amendment", "mark"),
    [(CANCEL, "canceled"), ({**CANCEL, "p": None, "s": None}, "canceled"), (CORRECTION, "incorrect")],
)
@pytest.mark.parametrize(
    ("recorded", "cancelled", "left"),
    [([0, 1], 1, [0]), ([0, 1], 0, [1]), ([0, 0], 0, [0]), ([1], 1, [0]), ([], 1, [0])],
)
def test_a_mark_and_an_amendment_of_the_same_trade_are_one_amendment(
    tmp_path: Path,
    order: str,
    amendment: dict[str, Any],
    mark: str,
    recorded: list[int],
    cancelled: int,
    left: list[int],
) -> None:
    trades = recorded if len(recorded) > 1 else [0, 1]
    store, last = tmp_path / "store", len(trades) - 1 - trades[::-1].index(cancelled)
    history = [(second, 100, mark if n == last else None) for n, second in enumerate(trades)]
    if order == "fetched first":
        write_history(store, *history)
    record_messages(store, tmp_path, *(at(TRADE, second) for second in recorded), at(amendment, 4))
    if order == "recorded first":
        write_history(store, *history)
    assert found(store) == Counter((second, 100) for second in left)


@pytest.mark.cases("V3")
@pytest.mark.parametrize("says_so", ["a mark", "a recorded cancel"])
def test_an_amendment_takes_its_trade_out_of_a_scan_of_another_feed(tmp_path: Path, says_so: str) -> None:
    write_history(tmp_path, (0, 100, None), (1, 100, None), feed="iex")
    if says_so == "a mark":
        write_history(tmp_path, (0, 100, None), (1, 100, "canceled"))
    else:
        write(tmp_path, [Source("sip", "a", [(1, 100, None)], [("cancels", 4, 100)])])
    assert found(tmp_path, feed="iex") == found(tmp_path) == Counter([(0, 100)])


@pytest.mark.cases("V3")
def test_an_export_that_ends_before_the_cancelled_trade_has_the_one_before(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from mdstream.cli.app import app

    store, to = tmp_path / "store", tmp_path / "x.parquet"
    write(store, [Source("sip", "a", [(0, 100, None), (1, 100, None)], [("cancels", 4, 100)])])
    command = ["export", "stocks.trades", "--store", str(store), "--end", "2026-01-05T14:30:00.5Z", "--to"]
    assert CliRunner().invoke(app, [*command, str(to)]).exit_code == 0
    assert pl.read_parquet(to)["ts"].dt.second().to_list() == [0]
