"""Leave out trades that were cancelled or corrected later, as any source says.

    a mark in history (`BarRules.mark`) ──────────────┐
    a recorded cancel or correction ─► its trade ─────┴─► left out, with the same rows of all other sources

An amendment names its trade by all of the channel's identity except the time. It means the last such trade
of the 24 hours before it that no earlier amendment has taken. Where it has no price or size, the rest must
suffice. So of equal trades, as many are left out as there are marks or amendments: each source counts its
own, and the source with most of them counts for all.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdstream.store.schema import NS_SUFFIX, RUN
from mdstream.store.sources import Merged, list_identity_columns
from mdstream.streams.bar_rules import BarRules
from mdstream.streams.marks import is_marked
from mdstream.streams.spec import RECV_TS, Channel

if TYPE_CHECKING:
    import polars as pl

_ID_COLUMNS = 3
"""The first matching columns, which identify a trade where ids do not repeat: symbol, exchange, id."""
_DAY_NS = 86_400_000_000_000
_AT, _TRADED, _COUNT, _FEED, _RUN = "_at", "_traded", "_count", "_feed", "_run"


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


def drop_marked(
    merged: Merged, every: Sequence[pl.LazyFrame], channel: Channel, rules: BarRules
) -> pl.LazyFrame:
    """Return merged rows without trades that any source among `every` has marked."""
    import polars as pl

    apart = merged.apart.filter(~is_marked(rules))
    if merged.single is None or merged.several is None:
        return apart
    names = apart.collect_schema().names()
    keys = list_identity_columns(channel, names)
    marked = pl.concat(
        [
            source.filter(is_marked(rules)).select(*keys, *_name_source(source.collect_schema().names()))
            for source in every
        ],
        how="vertical_relaxed",
    )
    counts = _count_most(marked)
    single = merged.single.join(counts, on=keys, how="anti", nulls_equal=True)
    several = merged.several.join(counts, on=keys, how="left", nulls_equal=True)
    first = several.sort(is_marked(rules), descending=True, maintain_order=True)
    left = first.filter(pl.int_range(pl.len()).over(keys) >= pl.col(_COUNT).fill_null(0))
    return pl.concat([apart, single, left.select(names)])


def drop_amended(rows: pl.LazyFrame, amendments: pl.LazyFrame, channel: Channel) -> pl.LazyFrame:
    """Return `rows` without the trades that `amendments` name. It reads all of `rows` at once."""
    import polars as pl

    names = rows.collect_schema().names()
    trades = rows.with_columns(_time_ns(channel.time).alias(_TRADED))
    left = pl.concat([trades, amendments], how="diagonal_relaxed").map_batches(
        functools.partial(_leave_out, matching=list_matching_columns(channel)),
        predicate_pushdown=False,
        projection_pushdown=False,
        slice_pushdown=False,
    )
    return left.select(names)


def _leave_out(found: pl.DataFrame, matching: Sequence[str]) -> pl.DataFrame:
    """Return the trades among `found`, without those that the amendments among it name.

    Trades have null in `_AT`, amendments in `_TRADED`.
    """
    import polars as pl

    amendments = found.filter(pl.col(_AT).is_not_null()).sort(_AT, maintain_order=True)
    every, number = found.filter(pl.col(_AT).is_null()), list(matching[:_ID_COLUMNS])
    # Ids repeat from symbol to symbol: few of these trades are named.
    others = every.join(amendments, on=number, how="anti")
    trades = every.join(amendments, on=number, how="semi").sort(_TRADED, maintain_order=True)
    by_number: dict[tuple[object, ...], list[tuple[int, int, tuple[object, ...]]]] = defaultdict(list)
    for row, (at, *values) in enumerate(trades.select(_TRADED, *matching).iter_rows()):
        by_number[tuple(values[:_ID_COLUMNS])].append((at, row, tuple(values[_ID_COLUMNS:])))
    taken = set[int]()
    for at, *values in amendments.select(_AT, *matching).iter_rows():
        rest = tuple(values[_ID_COLUMNS:])
        for traded, row, found_rest in reversed(by_number[tuple(values[:_ID_COLUMNS])]):
            is_meant = None in rest or found_rest == rest
            if is_meant and row not in taken and at - _DAY_NS <= traded <= at:
                taken.add(row)
                break
    return pl.concat([others, trades.filter(~pl.int_range(pl.len()).is_in(list(taken)))])


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
    counts = rows.group_by(names).agg(pl.len().alias(_COUNT))
    keys = [name for name in names if name not in (_FEED, _RUN)]
    return counts.group_by(keys).agg(pl.col(_COUNT).max())


def _time_ns(name: str) -> pl.Expr:
    import polars as pl

    return pl.col(name).dt.epoch("us") * 1000 + pl.col(name + NS_SUFFIX)
