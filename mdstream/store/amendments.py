"""Leave out trades that were cancelled or corrected later, as any source says.

    marks in history (`BarRules.mark`) ──────────┐
    recorded amendments ─► the trades they mean ─┴─► how many of each trade are left out

The rule. Of equal trades there are as many as the source with most of them has, and as many are amended as
the source with most marks of them says. A recorded cancel or correction names its trade by all of the
channel's identity except the time; where it has no price or size, the rest must suffice. Of such trades in
the 24 hours before it, it means

1. the last one that is marked, because history knows which trade it was: this is one amendment, not two;
2. if none is, the last one that is valid.

No two recorded amendments mean the same copy of a trade, and the earlier one chooses first. Of equal
amendments, the source with most of them counts for all.

What is asked for changes none of this: the trades of all data feeds and all times decide what an amendment
means. Only then are as many copies of each trade left out as are amended, from the rows that are wanted.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from mdstream.store.schema import NS_SUFFIX, RUN
from mdstream.store.sources import Part, find_shared_days, is_of_days, list_identity_columns, merge
from mdstream.streams.bar_rules import BarRules
from mdstream.streams.marks import is_marked
from mdstream.streams.spec import RECV_TS, Channel

if TYPE_CHECKING:
    import polars as pl

_ID_COLUMNS = 3
"""The first matching columns, which identify a trade where ids do not repeat: symbol, exchange, id."""
_DAY_NS = 86_400_000_000_000
_AT, _TRADED, _COUNT, _MARKED = "_at", "_traded", "_count", "_marked"
_FEED, _RUN, _CHAIN = "_feed", "_run", "_chain"


@dataclass(frozen=True, slots=True)
class Trades:
    """The trades that are wanted, and what decides which of them are amended."""

    wanted: Sequence[Part]
    of_all_feeds: Sequence[Part]
    """Those of the same symbols and times."""
    of_all_times: Sequence[Part]
    """Those of the same symbols, and of all feeds."""
    span: tuple[int | None, int | None]
    """The wanted times: the first, and the end; ns since 1970."""


def list_matching_columns(channel: Channel) -> list[str]:
    """Return the columns by which an amendment names its trade."""
    return [name for name in channel.identity if name != channel.time]


def read_amendments(rows: pl.LazyFrame, channel: Channel) -> pl.LazyFrame:
    """Return what recorded cancels or corrections name, as matching columns of trades, and their times."""
    import polars as pl

    names = rows.collect_schema().names()
    originals = [
        pl.col(f"original_{name}" if f"original_{name}" in names else name).alias(name)
        for name in list_matching_columns(channel)
    ]
    kept = rows.select(*originals, _time_ns("ts").alias(_AT), *_name_source(names))
    columns = [*list_matching_columns(channel), _AT]
    return _count_most(kept).select(pl.col(columns).repeat_by(_COUNT)).explode(columns)


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


def _select(parts: Sequence[Part], condition: pl.Expr) -> list[Part]:
    return [replace(part, rows=part.rows.filter(condition)) for part in parts]


def _merge_unmarked(
    wanted: Sequence[Part], of_all_feeds: Sequence[Part], channel: Channel, rules: BarRules, day: str
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


def _count_marks(parts: Sequence[Part], channel: Channel, rules: BarRules) -> pl.LazyFrame:
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
    """Return the amendments, in order of time, that decide about trades of a time span.

    Of amendments of one time, those without a price or size come last.

    Those of one number may compete for trades if they are less than a day apart. So all that are linked in
    this way to one that may mean a wanted trade are relevant, and no others.
    """
    import polars as pl

    (first, past), number = span, matching[:_ID_COLUMNS]
    is_far = (pl.col(_AT).diff() > _DAY_NS).fill_null(value=True)
    chained = amendments.sort(_AT, *matching, nulls_last=True).with_columns(
        is_far.cast(pl.Int64).cum_sum().over(number).alias(_CHAIN)
    )
    # Nothing before `first` means a trade behind it, and nothing a day after `past` one before that.
    wanted = pl.lit(value=True)
    if first is not None:
        wanted &= pl.col(_AT) >= first
    if past is not None:
        wanted &= pl.col(_AT) <= past + _DAY_NS
    return chained.filter(wanted.any().over([*number, _CHAIN])).drop(_CHAIN)


def _count_taken(
    parts: Sequence[Part], amendments: pl.DataFrame, channel: Channel, rules: BarRules, day: str
) -> pl.LazyFrame:
    """Return how many copies of each trade recorded amendments mean, besides those that are marked.

    Of all times, only the days are read on which an amendment may have its trade.
    """
    import polars as pl

    number = list_matching_columns(channel)[:_ID_COLUMNS]
    times = pl.concat([amendments[_AT], amendments[_AT] - _DAY_NS]).cast(pl.Datetime("ns", "UTC"))
    days = (times.dt.date() if day == "date" else times.dt.year()).unique()
    numbers = amendments.select(number).unique().lazy()
    named = []
    for part in parts:
        rows = part.rows.filter(pl.col(day).is_in(days.implode())).join(numbers, on=number, how="semi")
        names = rows.collect_schema().names()
        keys = list_identity_columns(channel, names)
        named.append(rows.select(*keys, is_marked(rules).alias(_MARKED), *_name_source(names)))
    trades = pl.concat(named, how="vertical_relaxed")
    of_source = [*keys, _FEED, _RUN]
    counts = trades.group_by(of_source).agg(pl.len().cast(pl.Int64).alias(_COUNT), pl.col(_MARKED).sum())
    most = counts.group_by(keys).agg(pl.col(_COUNT, _MARKED).max())
    return most.map_batches(
        functools.partial(_take, amendments=amendments, channel=channel, keys=keys),
        schema={**{name: trades.collect_schema()[name] for name in keys}, _COUNT: pl.Int64()},
        predicate_pushdown=False,
        projection_pushdown=False,
        slice_pushdown=False,
    )


class _Copies(NamedTuple):
    """The copies of a trade that no amendment means yet."""

    at: int
    rest: tuple[object, ...]
    """Its values in the other matching columns."""
    left: list[int]
    """How many there are: valid ones, and marked ones."""


def _take(
    counts: pl.DataFrame, *, amendments: pl.DataFrame, channel: Channel, keys: Sequence[str]
) -> pl.DataFrame:
    """Return the valid copies that the amendments mean, given the copies of each trade and their marks."""
    import polars as pl

    matching = list_matching_columns(channel)
    trades = counts.with_columns(_time_ns(channel.time).alias(_TRADED)).sort(_TRADED, *matching)
    by_number: dict[tuple[object, ...], list[_Copies]] = defaultdict(list)
    copies = []
    for at, count, marked, *values in trades.select(_TRADED, _COUNT, _MARKED, *matching).iter_rows():
        trade = _Copies(at, tuple(values[_ID_COLUMNS:]), [count - marked, marked])
        copies.append(trade)
        by_number[tuple(values[:_ID_COLUMNS])].append(trade)
    for at, *values in amendments.select(_AT, *matching).iter_rows():
        rest = tuple(values[_ID_COLUMNS:])
        meant = [
            trade
            for trade in reversed(by_number[tuple(values[:_ID_COLUMNS])])
            if (None in rest or trade.rest == rest) and at - _DAY_NS <= trade.at <= at
        ]
        for is_mark in (1, 0):
            if left := next((each.left for each in meant if each.left[is_mark]), None):
                left[is_mark] -= 1
                break
    valid = trades[_COUNT] - trades[_MARKED].cast(pl.Int64)
    untaken = pl.Series([trade.left[0] for trade in copies], dtype=pl.Int64)
    return trades.select(*keys, (valid - untaken).alias(_COUNT)).filter(pl.col(_COUNT) > 0)


def _name_source(names: Sequence[str]) -> list[pl.Expr]:
    """Return the feed and run of rows; the time of receipt stands for the run that rows of 0.2.0 lack."""
    import polars as pl

    run = pl.lit("", pl.String)
    if RUN in names:
        run = pl.coalesce(pl.col(RUN), _time_ns(RECV_TS.name).cast(pl.String))
    return [pl.col("feed").alias(_FEED), run.alias(_RUN)]


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
