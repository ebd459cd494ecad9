"""The tables of a dataset: opened, with the columns of the dataset, and only the rows that are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING

from mdstream.errors import ConfigError, StoreError
from mdstream.store.folders import check_name
from mdstream.store.objects import summarize_error
from mdstream.store.query import When, parse_time
from mdstream.store.schema import NS_SUFFIX, ROW, RUN, find_widened, polars_schema
from mdstream.store.sources import DatasetPart
from mdstream.streams.rest_spec import HistorySpec
from mdstream.streams.spec import STORED_APART, Channel

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read of a dataset: a span of time, and values of partition columns (empty: all)."""

    dataset: str
    span: tuple[When | None, When | None]
    kinds: Mapping[str, str]
    zone: tzinfo = UTC
    """The zone of bounds without one."""

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        """The span in ns since 1970: the first time, and the end. Raises `ConfigError`."""
        start, end = self.span
        return (
            None if start is None else parse_time(start, "start", zone=self.zone),
            None if end is None else parse_time(end, "end", whole_day=True, zone=self.zone),
        )


def open_table(uri: str, options: dict[str, str]) -> DeltaTable | None:
    """Return the Delta table at `uri`; None if there is none. Raises `StoreError` if it cannot be read."""
    from deltalake.exceptions import DeltaError

    from mdstream.store.delta_table import LocatedTable, locate

    check_name(uri)
    try:
        return locate(uri, options) if LocatedTable.is_deltatable(uri, options or None) else None
    except (OSError, DeltaError) as error:
        raise StoreError(f"store: {uri} cannot be read: {summarize_error(error)}") from error


def select(
    table: DeltaTable, channel: Channel, history: HistorySpec | None, wanted: Wanted, is_recorded: bool
) -> DatasetPart:
    """Return the rows of a table that are wanted, with the columns of the dataset, and their sources."""
    import polars as pl

    rows = scan_widened(table, channel)
    if is_recorded and history is not None:
        rows = _as_history(rows, history)
    rows = add_missing_columns(rows, channel, is_recorded)
    sources = list_sources(table, partition_of(rows), is_recorded)
    if feed := wanted.kinds["feed"]:
        sources = sources.filter(pl.col("feed") == feed)
    return DatasetPart(filter_wanted(rows, channel, wanted), sources, is_recorded)


def scan_widened(table: DeltaTable, channel: Channel) -> pl.LazyFrame:
    """Return the rows of a table; numbers that version 0.2 stored as whole ones have the type of today."""
    import polars as pl

    rows = pl.scan_delta(table)
    whole = [name for name, kind in rows.collect_schema().items() if kind.is_integer()]
    return rows.with_columns(pl.col(find_widened(channel, whole)).cast(pl.Float64))


def filter_wanted(rows: pl.LazyFrame, channel: Channel, wanted: Wanted) -> pl.LazyFrame:
    """Return the rows that are wanted. Raises `ConfigError` for a partition that the dataset lacks."""
    import polars as pl

    names = rows.collect_schema().names()
    day = partition_of(rows)
    for name, kind in wanted.kinds.items():
        if kind and name not in names:
            raise ConfigError(f"{wanted.dataset} has no {name}")
        if kind:
            rows = rows.filter(pl.col(name) == kind)
    for at_ns, bound in zip(wanted.bounds, ("start", "end"), strict=True):
        if at_ns is not None:
            rows = rows.filter(*_time_conditions(channel, at_ns, bound, day))
    return rows


def _time_conditions(channel: Channel, at_ns: int, bound: str, partition: str) -> list[pl.Expr]:
    """Return conditions on the partition, on the microsecond, and on the nanoseconds beyond it.

    A row with revisions may be in the partition of its last one, which is later than its time.
    """
    import polars as pl

    micro, beyond = divmod(at_ns, 1000)
    when = pl.lit(micro).cast(pl.Datetime("us", "UTC"))
    day = when.dt.date() if partition == "date" else when.dt.year()
    exact = pl.col(channel.time), pl.col(channel.time + NS_SUFFIX)
    if bound == "start":
        inside = (exact[0] > when) | ((exact[0] == when) & (exact[1] >= beyond))
        return [pl.col(partition) >= day, exact[0] >= when, inside]
    inside = (exact[0] < when) | ((exact[0] == when) & (exact[1] < beyond))
    filed = [] if channel.revised_by else [pl.col(partition) <= day]
    return [*filed, exact[0] <= when, inside]


def partition_of(rows: pl.LazyFrame) -> str:
    """Return the partition column with the time of rows."""
    return "date" if "date" in rows.collect_schema() else "year"


def list_sources(table: DeltaTable, day: str, is_recorded: bool) -> pl.DataFrame:
    """Return the feed, day and source of each file; the source is null if there are several or unknown."""
    import polars as pl

    files = pl.DataFrame(table.get_add_actions(flatten=True))
    feed = pl.col("partition.feed").alias("feed")
    if not is_recorded:
        days = pl.col(f"partition.{day}").cast(pl.String).alias("day")
        return files.select(feed, days, pl.format("history of {}", "partition.feed").alias("source"))
    when = pl.col("partition.date").cast(pl.String).alias("day")
    if day == "year":
        when = when.str.slice(0, 4)
    run: pl.Expr = pl.lit(None, pl.String)
    if f"min.{RUN}" in files.columns:
        first, last = pl.col(f"min.{RUN}"), pl.col(f"max.{RUN}")
        is_one = (first == last) & (pl.col(f"null_count.{RUN}") == 0)
        run = pl.when(is_one).then(first)
    return files.select(feed, when, run.cast(pl.String).alias("source"))


def _as_history(live: pl.LazyFrame, history: HistorySpec) -> pl.LazyFrame:
    """Return recorded rows with the partition columns of history."""
    import polars as pl

    if history.bars:
        kind = pl.col("kind")
        frame = pl.when(kind == "daily").then(pl.lit("1Day")).otherwise(pl.lit("1Min"))
        live = live.with_columns(frame.alias("timeframe")).drop("kind")
        if history.adjusted:
            live = live.with_columns(pl.lit("raw").alias("adjustment"))
    if history.partition == "year":
        live = live.with_columns(pl.col("date").dt.year().alias("year")).drop("date")
    return live


def add_missing_columns(rows: pl.LazyFrame, channel: Channel, is_recorded: bool) -> pl.LazyFrame:
    """Return rows in the order of the declared columns; those that the table does not have yet are null.

    A table of an earlier version lacks columns until something is added to it, and recorded rows lack those
    that only history has (images of articles).
    """
    import polars as pl

    have = rows.collect_schema().names()
    kinds: dict[str, pl.DataType] = {
        **({RUN: pl.String()} if is_recorded else {}),
        ROW: pl.Int64(),
        **polars_schema(channel),
    }
    apart = [name for name in (*STORED_APART, "date", "year") if name in have]
    columns = [
        pl.col(name) if name in have else pl.lit(None, kind).alias(name) for name, kind in kinds.items()
    ]
    return rows.select(*apart, *columns)
