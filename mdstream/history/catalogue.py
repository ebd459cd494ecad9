"""The store as one table a dataset, for any query."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mdstream.errors import ConfigError, NoStoreError
from mdstream.handoff.stored import BEYOND
from mdstream.history.request import history_of, moment

if TYPE_CHECKING:
    import polars as pl


def scan(
    dataset: str,
    store: str | Path,
    *,
    symbols: Sequence[str] | None = None,
    start: str | date | datetime | None = None,
    end: str | date | datetime | None = None,
    feed: str = "",
    timeframe: str = "",
    adjustment: str = "",
) -> pl.LazyFrame:
    """A dataset of a store as a lazy frame: `scan("stocks.trades", "store", symbols=["AAPL"])`.

    Columns are those of the live frame, times Datetime("ns", "UTC"), symbols and codes String, and before
    them the partition's: `feed`, for bars `timeframe` (and `adjustment`), `date` or `year`. What is given
    here, and filters on the frame, decide which files are read at all. `start` is inside, `end` is not
    (a date as `end` includes that day). An article that came for several symbols is there once.
    Raises `NoStoreError` where there is no such table.
    """
    import polars as pl
    from deltalake import DeltaTable

    history, folder = history_of(dataset), Path(store) / dataset
    if not DeltaTable.is_deltatable(str(folder)):
        raise NoStoreError(
            f"no {dataset} in {store}: fetch some, as with mdstream backfill {dataset}"
        )
    frame = pl.scan_delta(str(folder))
    time = "created_at" if history.rows else "ts"
    for name, wanted in (("feed", feed), ("timeframe", timeframe), ("adjustment", adjustment)):
        if wanted and name not in frame.collect_schema():
            raise ConfigError(f"{dataset} has no {name}")
        if wanted:
            frame = frame.filter(pl.col(name) == wanted)
    for value, bound, whole_day in ((start, "start", False), (end, "end", True)):
        if value is not None:
            frame = frame.filter(
                *_bounded(time, moment(value, bound, whole_day), bound, history.partition)
            )
    if symbols is not None:
        names = list(symbols)
        chosen = pl.col("symbol").is_in(names)
        if history.rows:
            chosen = pl.col("symbols").list.set_intersection(names).list.len() > 0
        frame = frame.filter(chosen)
    frame = _whole_times(frame)
    return frame.unique("id", keep="any", maintain_order=True) if history.rows else frame


def _bounded(time: str, at_ns: int, bound: str, partition: str) -> list[pl.Expr]:
    """Conditions on the partition, on the microsecond, and on what is beyond it."""
    import polars as pl

    micro, beyond = divmod(at_ns, 1000)
    when = pl.lit(micro).cast(pl.Datetime("us", "UTC"))
    day = when.dt.date() if partition == "date" else when.dt.year()
    exact = pl.col(time), pl.col(time + BEYOND)
    if bound == "start":
        inside = (exact[0] > when) | ((exact[0] == when) & (exact[1] >= beyond))
        return [pl.col(partition) >= day, exact[0] >= when, inside]
    inside = (exact[0] < when) | ((exact[0] == when) & (exact[1] < beyond))
    return [pl.col(partition) <= day, exact[0] <= when, inside]


def _whole_times(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Times with their nanoseconds, in one column each."""
    import polars as pl

    names = frame.collect_schema().names()
    times = [name for name in names if name + BEYOND in names]
    whole = [
        (pl.col(n).dt.epoch("us") * 1000 + pl.col(n + BEYOND).cast(pl.Int64))
        .cast(pl.Datetime("ns", "UTC"))
        .alias(n)
        for n in times
    ]
    return frame.with_columns(whole).drop([name + BEYOND for name in times])
