"""Merge the sources of a dataset: what several of them have is returned as often as one of them has it.

A source is the history of one data feed, or one run that recorded. `Channel.identity` says which rows of
two sources are the same event. The source with most rows of an event counts; history comes before recorded
rows. So equal rows of one source stay as many as they are.

Rows that were recorded before tables named the run (0.2.0) cannot be assigned to one. There, each time of
receipt counts as a source: equal rows of one payload stay, those of different payloads are merged.

Days on which no two sources meet are read as they are. The logs of the tables say which days these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mdstream.store.schema import NS_SUFFIX, RUN
from mdstream.streams.spec import RECV_TS, Channel

if TYPE_CHECKING:
    import polars as pl

_SOURCE = "_source"
_NUMBER = "_number"


@dataclass(frozen=True, slots=True)
class DatasetPart:
    """History or recorded rows: a table's selected rows, and the sources of each day.

    `sources` has the columns `feed`, `day` and `source`, which is null if it is not known, with a row for
    each file.
    """

    rows: pl.LazyFrame
    sources: pl.DataFrame
    is_recorded: bool


def list_identity_columns(channel: Channel, names: Sequence[str]) -> list[str]:
    """Return the stored columns of the channel's identity that are among `names`."""
    return [n for name in channel.identity for n in (name, name + NS_SUFFIX) if n in names]


class Merged(NamedTuple):
    """The rows of a dataset, each event as often as the source that has it most often."""

    apart: pl.LazyFrame
    """Those of days with one source."""
    single: pl.LazyFrame | None
    """Those of other days that no source has twice; None if there are no such days."""
    several: pl.LazyFrame | None
    """The others."""

    @property
    def rows(self) -> pl.LazyFrame:
        """All of them."""
        import polars as pl

        return pl.concat([each for each in self if each is not None])


def merge(parts: Sequence[DatasetPart], channel: Channel, day: str) -> Merged:
    """Return the rows of all sources, merged.

    `day` is the partition column with the day or year. Columns are those of the first part.
    """
    names = [name for name in parts[0].rows.collect_schema().names() if name != RUN]
    every = [part.rows for part in parts]
    met = find_shared_days(parts, channel)
    if met is not None and not len(met):
        return Merged(_concat(every, names), None, None)
    numbered = [part.rows.with_columns(_number_source(part).alias(_SOURCE)) for part in parts]
    if met is None:
        together = _concat(numbered, [*names, _SOURCE])
        return Merged(_concat(every, names).limit(0), *_take_most(together, channel, day))
    shared = is_of_days(met, day)
    together = _concat([rows.filter(shared) for rows in numbered], [*names, _SOURCE])
    apart = _concat([rows.filter(~shared) for rows in every], names)
    return Merged(apart, *_take_most(together, channel, day))


def find_shared_days(parts: Sequence[DatasetPart], channel: Channel) -> pl.Series | None:
    """Return the days on which sources may have the same rows; None if the day says nothing about that."""
    import polars as pl

    sources = pl.concat([part.sources for part in parts])
    by = ["feed", "day"] if "feed" in channel.identity else ["day"]
    counts = sources.group_by(by).agg((pl.col("source").n_unique() > 1) | pl.col("source").is_null().any())
    met = counts.filter("source")["day"].unique().sort()
    if channel.time in channel.identity:
        return met
    # Only the receipt says the day, so two sources may have the same row on two days.
    is_one = sources["source"].n_unique() <= 1 and not sources["source"].has_nulls()
    return met if is_one else None


def is_of_days(days: pl.Series, day: str) -> pl.Expr:
    """Return whether a row is of one of `days`, which are texts; `day` is the partition column."""
    import polars as pl

    values = days.str.to_date() if day == "date" else days.cast(pl.Int32)
    return pl.col(day).is_in(values.implode())


def _number_source(part: DatasetPart) -> pl.Expr:
    """Return a number for the source of each row. Sources of two feeds may have the same one."""
    import polars as pl

    if not part.is_recorded:
        return pl.lit(0, pl.Int64)
    received = pl.col(RECV_TS.name).dt.epoch("us") * 1000 + pl.col(RECV_TS.name + NS_SUFFIX)
    run = pl.col(RUN).cast(pl.Categorical).to_physical().cast(pl.Int64) + 1
    return pl.when(pl.col(RUN).is_null()).then(-received - 1).otherwise(run)


def _take_most(rows: pl.LazyFrame, channel: Channel, day: str) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return each event as often as the source that has it most often: single ones, and the others."""
    import polars as pl

    names = rows.collect_schema().names()
    keys = list_identity_columns(channel, names)
    if channel.time in channel.identity:
        keys.append(day)  # the same for equal rows: a filter on it needs no other days
    of_source = [*dict.fromkeys([*keys, "feed"]), _SOURCE]
    counts = rows.group_by(of_source).agg(pl.len().alias(_NUMBER))
    repeated = counts.filter(pl.col(_NUMBER) > 1).select(keys).unique()
    # The order is kept, because the first of equal rows is that of history.
    single = rows.join(repeated, on=keys, how="anti", nulls_equal=True, maintain_order="left")
    several = rows.join(repeated, on=keys, how="semi", nulls_equal=True, maintain_order="left")
    several = several.with_columns(pl.int_range(pl.len()).over(of_source).alias(_NUMBER))
    several = several.unique([*keys, _NUMBER], keep="first", maintain_order=True).drop(_NUMBER)
    single = single.unique(keys, keep="first", maintain_order=True)
    return single.drop(_SOURCE), several.drop(_SOURCE)


def _concat(parts: Sequence[pl.LazyFrame], names: Sequence[str]) -> pl.LazyFrame:
    import polars as pl

    return pl.concat([part.select(names) for part in parts], how="vertical_relaxed")
