"""Leave out trades that were cancelled or corrected later, as any source says.

    marks in history (`BarRules.mark`) ──────────┐
    recorded amendments ─► the trades they mean ─┴─► how many of each trade are left out

Sources may have different numbers of equal trades, and of marks on them. The largest number of trades
counts, and so does the largest number of marks. Which trade a recorded cancel or correction means is the
rule of `streams/amendment_rule.py`, with what only a store knows:

1. If a trade in its reach is marked, it means the last of these, because history knows which trade it was:
   this is one amendment, not two.
2. If none is, it means what its own source had received, as the rule says.
3. If its source has no such trade (its run may have begun later), it means the last valid one in its reach
   that its source never received.

No two recorded amendments mean the same copy of a trade. Equal amendments count as often as the source with
most of them has them.

What is asked for changes none of this: the trades of all data feeds and all times decide what an amendment
means. Only then are as many copies of each trade left out as are amended, from the rows that are wanted.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mdstream.store.schema import NS_SUFFIX, ROW, RUN
from mdstream.store.sources import DatasetPart, find_shared_days, is_of_days, list_identity_columns, merge
from mdstream.streams.amendment_rule import (
    AFTER_NS,
    BEFORE_NS,
    ID_COLUMNS,
    is_in_reach,
    list_matching_columns,
    name_of,
)
from mdstream.streams.bar_rules import BarRules
from mdstream.streams.marks import is_marked
from mdstream.streams.spec import RECV_TS, Channel

if TYPE_CHECKING:
    import polars as pl

_AT, _TRADED, _COUNT, _MARKED = "_at", "_traded", "_count", "_marked"
_FEED, _RUN, _CHAIN = "_feed", "_run", "_chain"
_RECEIVED, _ROW, _NOW = "_received", "_row", "_now"


@dataclass(frozen=True, slots=True)
class Trades:
    """The trades that are wanted, and what decides which of them are amended."""

    wanted: Sequence[DatasetPart]
    of_all_feeds: Sequence[DatasetPart]
    """Those of the same symbols and times."""
    of_all_times: Sequence[DatasetPart]
    """Those of the same symbols, and of all feeds."""
    span: tuple[int | None, int | None]
    """The wanted times: the first, and the end; ns since 1970."""


def read_amendments(rows: pl.LazyFrame, channel: Channel) -> pl.LazyFrame:
    """Return recorded cancels or corrections: what they name, when they were received, and by whom.

    Columns are the matching ones of trades, and with a prefix, a correction's new values of these.
    """
    import polars as pl

    names, matching = rows.collect_schema().names(), list_matching_columns(channel)
    originals, now = [], []
    for name in matching:
        original, corrected = f"original_{name}", f"corrected_{name}"
        originals.append(pl.col(original if original in names else name).alias(name))
        now.append(pl.col(corrected if corrected in names else name).alias(_NOW + name))
    if not any(f"corrected_{name}" in names for name in matching):
        now = [pl.lit(None).alias(_NOW + name) for name in matching]
    kept = rows.select(*originals, *now, _time_ns("ts").alias(_AT), *_name_receipt(names))
    same, source = [*matching, _AT], [_FEED, _RUN]
    most = kept.group_by([*same, *source]).agg(pl.len().alias(_COUNT), pl.col(_RECEIVED).min())
    most = most.sort(_COUNT, _RECEIVED, *source, descending=[True, False, False, False])
    most = most.unique(same, keep="first", maintain_order=True).select(*same, *source)
    return kept.join(most, on=[*same, *source], how="semi", nulls_equal=True)


def merge_valid(
    trades: Trades, amendments: pl.DataFrame | None, channel: Channel, rules: BarRules, day: str
) -> pl.LazyFrame:
    """Return the wanted trades of all sources, merged, without the amended ones.

    `day` is the partition column with the day or year.
    """
    import polars as pl

    if amendments is not None:
        amendments = _find_relevant(amendments, trades.span, list_matching_columns(channel))
    if amendments is None or not amendments.height:
        return _merge_unmarked(trades.wanted, trades.of_all_feeds, channel, rules, day)
    # The few trades with an id that is amended are read apart: the others need no further join.
    ids = amendments["id"].unique().drop_nulls()
    is_named = pl.col("id").is_in(ids.implode()).fill_null(False)
    others, others_of_all_feeds = (
        _select(each, ~is_named) for each in (trades.wanted, trades.of_all_feeds)
    )
    named, of_all_feeds = (_select(each, is_named) for each in (trades.wanted, trades.of_all_feeds))
    amended = [
        _count_marks(of_all_feeds, channel, rules),
        _count_taken(_select(trades.of_all_times, is_named), amendments, channel, rules, day),
    ]
    keys = list_identity_columns(channel, amended[0].collect_schema().names())
    counts = pl.concat(amended, how="diagonal_relaxed").group_by(keys).agg(pl.col(_COUNT).sum())
    return pl.concat(
        [
            _merge_unmarked(others, others_of_all_feeds, channel, rules, day),
            _leave_out(merge(named, channel, day).rows, counts, keys, rules),
        ]
    )


def _select(parts: Sequence[DatasetPart], condition: pl.Expr) -> list[DatasetPart]:
    return [replace(part, rows=part.rows.filter(condition)) for part in parts]


def _merge_unmarked(
    wanted: Sequence[DatasetPart],
    of_all_feeds: Sequence[DatasetPart],
    channel: Channel,
    rules: BarRules,
    day: str,
) -> pl.LazyFrame:
    """Return merged trades, without as many of each as any source among `of_all_feeds` has marked."""
    import polars as pl

    merged = merge(wanted, channel, day)
    met = find_shared_days(of_all_feeds, channel)
    if met is not None and not len(met):
        return merged.rows.filter(~is_marked(rules))
    counts = _count_marks(of_all_feeds, channel, rules)
    keys = list_identity_columns(channel, counts.collect_schema().names())
    left = []
    if merged.single is not None and merged.several is not None:
        left.append(merged.single.join(counts, on=keys, how="anti", nulls_equal=True))
        left.append(_leave_out(merged.several, counts, keys, rules))
    own = find_shared_days(wanted, channel)
    if met is None or own is None:
        return pl.concat([_leave_few_out(merged.apart, counts, keys, rules), *left])
    # Days on which only one of the wanted sources has rows, but another data feed has, too.
    elsewhere = met.filter(~met.is_in(own.implode()))
    if not len(elsewhere):
        return pl.concat([merged.apart.filter(~is_marked(rules)), *left])
    shared = is_of_days(elsewhere, day)
    left.append(_leave_few_out(merged.apart.filter(shared), counts, keys, rules))
    return pl.concat([merged.apart.filter(~shared & ~is_marked(rules)), *left])


def _leave_out(
    rows: pl.LazyFrame, counts: pl.LazyFrame, keys: Sequence[str], rules: BarRules
) -> pl.LazyFrame:
    """Return rows without as many of each as `counts` says, marked ones first. It sorts all of them."""
    import polars as pl

    names = rows.collect_schema().names()
    counted = rows.join(counts, on=keys, how="left", nulls_equal=True)
    first = counted.sort(is_marked(rules), descending=True, maintain_order=True)
    left = first.filter(pl.int_range(pl.len()).over(keys) >= pl.col(_COUNT).fill_null(0))
    return left.select(names)


def _leave_few_out(
    rows: pl.LazyFrame, counts: pl.LazyFrame, keys: Sequence[str], rules: BarRules
) -> pl.LazyFrame:
    """Return the same of many rows, of which few are amended."""
    import polars as pl

    others = rows.join(counts, on=keys, how="anti", nulls_equal=True)
    amended = rows.join(counts, on=keys, how="semi", nulls_equal=True)
    return pl.concat([others, _leave_out(amended, counts, keys, rules)])


def _count_marks(parts: Sequence[DatasetPart], channel: Channel, rules: BarRules) -> pl.LazyFrame:
    """Return how often the source that marks most copies of a trade has marked it."""
    import polars as pl

    marked = []
    for part in parts:
        names = part.rows.collect_schema().names()
        rows = part.rows.filter(pl.col(rules.mark).is_not_null(), is_marked(rules))
        marked.append(rows.select(*list_identity_columns(channel, names), *_name_source(names)))
    return _count_most(pl.concat(marked, how="vertical_relaxed"))


def _find_relevant(
    amendments: pl.DataFrame, span: tuple[int | None, int | None], matching: Sequence[str]
) -> pl.DataFrame:
    """Return the amendments that decide about trades of a time span.

    Those of one number may compete for trades if their reaches meet. So all that are linked in this way to
    one that may mean a wanted trade are relevant, and no others.
    """
    import polars as pl

    (first, past), number = span, matching[:ID_COLUMNS]
    is_far = (pl.col(_AT).diff() > BEFORE_NS + AFTER_NS).fill_null(value=True)
    chained = amendments.sort(_AT).with_columns(is_far.cast(pl.Int64).cum_sum().over(number).alias(_CHAIN))
    # Those whose reach ends before `first`, or begins behind `past`, mean no wanted trade.
    wanted = pl.lit(value=True)
    if first is not None:
        wanted &= pl.col(_AT) >= first - AFTER_NS
    if past is not None:
        wanted &= pl.col(_AT) <= past + BEFORE_NS
    return chained.filter(wanted.any().over([*number, _CHAIN])).drop(_CHAIN)


def _count_taken(
    parts: Sequence[DatasetPart], amendments: pl.DataFrame, channel: Channel, rules: BarRules, day: str
) -> pl.LazyFrame:
    """Return how many copies of each trade recorded amendments mean, besides those that are marked.

    Only the days on which an amendment may have its trade are read.
    """
    import polars as pl

    number = list_matching_columns(channel)[:ID_COLUMNS]
    at = amendments[_AT]
    times = pl.concat([at - BEFORE_NS, at, at + AFTER_NS]).cast(pl.Datetime("ns", "UTC"))
    days = (times.dt.date() if day == "date" else times.dt.year()).unique()
    numbers = amendments.select(number).unique().lazy()
    named = []
    for part in parts:
        rows = part.rows.filter(pl.col(day).is_in(days.implode())).join(numbers, on=number, how="semi")
        names = rows.collect_schema().names()
        keys = list_identity_columns(channel, names)
        named.append(rows.select(*keys, is_marked(rules).alias(_MARKED), *_name_receipt(names)))
    trades = pl.concat(named, how="vertical_relaxed")
    return trades.map_batches(
        functools.partial(_take, amendments=amendments, channel=channel, keys=keys),
        schema={**{name: trades.collect_schema()[name] for name in keys}, _COUNT: pl.Int64()},
        predicate_pushdown=False,
        projection_pushdown=False,
        slice_pushdown=False,
    )


Source = tuple[str, str]
Receipt = tuple[int, int]
"""When a copy was received, and its row in the frame of the run."""


@dataclass(slots=True)
class _Copies:
    """The copies of a trade that no amendment means yet. Written by `take` alone."""

    at: int
    rest: tuple[object, ...]
    """Its values in the other matching columns."""
    valid: int
    marked: int
    received: dict[Source, list[Receipt]]
    """Those that each source received, in the order of arrival."""
    first: dict[Source, int]
    """When each source received the first copy."""

    def find_last(self, source: Source, until: int) -> Receipt | None:
        """Return the last copy that a source had received at a time; None if there is none."""
        return max((each for each in self.received.get(source, ()) if each[0] <= until), default=None)

    def take(self, source: Source, until: int, *, is_marked: bool) -> None:
        """Take out the last copy that a source had received at a time, or one of another source."""
        self.marked -= is_marked
        self.valid -= not is_marked
        if (last := self.find_last(source, until)) is not None:
            self.received[source].remove(last)


def _take(
    rows: pl.DataFrame, *, amendments: pl.DataFrame, channel: Channel, keys: Sequence[str]
) -> pl.DataFrame:
    """Return the valid copies that the amendments mean, given the trades of all sources."""
    import polars as pl

    matching = list_matching_columns(channel)
    counts = rows.group_by([*keys, _FEED, _RUN]).agg(
        pl.len().alias(_COUNT), pl.col(_MARKED).sum(), pl.col(_RECEIVED), pl.col(_ROW)
    )
    trades = (
        counts.group_by(keys)
        .agg(pl.col(_COUNT, _MARKED).max().cast(pl.Int64), pl.col(_FEED, _RUN, _RECEIVED, _ROW))
        .with_columns(_time_ns(channel.time).alias(_TRADED))
        .sort(_TRADED, *matching)
    )
    copies, by_number = [], defaultdict[tuple[object, ...], list[_Copies]](list)
    columns = (_TRADED, _COUNT, _MARKED, _FEED, _RUN, _RECEIVED, _ROW)
    for at, count, marked, feeds, runs, times, numbers, *values in trades.select(
        *columns, *matching
    ).iter_rows():
        received = {
            source: list(zip(*each, strict=True))
            for source, *each in zip(zip(feeds, runs, strict=True), times, numbers, strict=True)
        }
        first = {source: min(each)[0] for source, each in received.items()}
        trade = _Copies(at, tuple(values[ID_COLUMNS:]), count - marked, marked, received, first)
        copies.append(trade)
        by_number[tuple(values[:ID_COLUMNS])].append(trade)
    _take_all(by_number, amendments, matching)
    taken = pl.Series([trade.valid for trade in copies], dtype=pl.Int64)
    left_out = (trades[_COUNT] - trades[_MARKED] - taken).alias(_COUNT)
    return trades.select(*keys, left_out).filter(pl.col(_COUNT) > 0)


def _take_all(
    by_number: Mapping[tuple[object, ...], list[_Copies]], amendments: pl.DataFrame, matching: Sequence[str]
) -> None:
    """Take the copies that the amendments mean, in the order of arrival, from the trades by number."""
    corrected: set[tuple[object, ...]] = set()
    order = [_RECEIVED, _ROW, _AT, *matching, _FEED, _RUN]
    columns = [_AT, _RECEIVED, _FEED, _RUN, *matching, *(_NOW + name for name in matching)]
    for at, received, feed, run, *values in (
        amendments.sort(order, nulls_last=True).select(columns).iter_rows()
    ):
        source, named, now = (feed, run), values[: len(matching)], values[len(matching) :]
        rest = tuple(named[ID_COLUMNS:])
        meant = [
            trade
            for trade in by_number[tuple(named[:ID_COLUMNS])]
            if (None in rest or trade.rest == rest) and is_in_reach(trade.at, at)
        ]
        is_again = (source, *name_of(named)) in corrected
        is_found = is_again or any(trade.first.get(source, received + 1) <= received for trade in meant)
        if not is_again and (found := _find(meant, source, received)) is not None:
            found.take(source, received, is_marked=found.marked > 0)
            is_found = True
        if is_found and now[ID_COLUMNS - 1] is not None:
            corrected |= {(source, *now), (source, *now[:ID_COLUMNS])}


def _find(meant: Sequence[_Copies], source: Source, received: int) -> _Copies | None:
    """Return the trade that an amendment means, of those in its reach by time; None if there is none."""
    for trade in reversed(meant):
        if trade.marked:
            return trade
    own = [
        (last, trade.at, trade)
        for trade in reversed(meant)
        if trade.valid and (last := trade.find_last(source, received)) is not None
    ]
    if own:
        return max(own, key=lambda each: each[:2])[2]
    others = (trade for trade in reversed(meant) if trade.valid > len(trade.received.get(source, ())))
    return next(others, None)


def _name_source(names: Sequence[str]) -> list[pl.Expr]:
    """Return the feed and run of rows; the time of receipt stands for the run that rows of 0.2.0 lack."""
    import polars as pl

    run = pl.lit("", pl.String)
    if RUN in names:
        run = pl.coalesce(pl.col(RUN), _time_ns(RECV_TS.name).cast(pl.String))
    return [pl.col("feed").alias(_FEED), run.alias(_RUN)]


def _name_receipt(names: Sequence[str]) -> list[pl.Expr]:
    """Return feed and run of rows, when they were received, and their numbers (-1 where there is none)."""
    import polars as pl

    received = _time_ns(RECV_TS.name).cast(pl.Int64).alias(_RECEIVED)
    return [*_name_source(names), received, pl.col(ROW).fill_null(-1).alias(_ROW)]


def _count_most(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return each different row without its source, and how often the source that has most of it has it."""
    import polars as pl

    names = rows.collect_schema().names()
    counts = rows.group_by(names).agg(pl.len().cast(pl.Int64).alias(_COUNT))
    keys = [name for name in names if name not in (_FEED, _RUN)]
    return counts.group_by(keys).agg(pl.col(_COUNT).max())


def _time_ns(name: str) -> pl.Expr:
    import polars as pl

    return pl.col(name).dt.epoch("us") * 1000 + pl.col(name + NS_SUFFIX)
