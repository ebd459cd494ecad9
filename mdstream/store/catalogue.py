"""The store as one table a dataset, for any query."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mdstream.errors import ConfigError, NoStoreError, StoreError
from mdstream.store.objects import plain, storage_options
from mdstream.store.query import as_list, is_pattern, parse_time
from mdstream.store.schema import BEYOND
from mdstream.streams import STREAMS
from mdstream.streams.datasets import datasets, resolve_dataset
from mdstream.streams.rest import History
from mdstream.streams.spec import RECV_TS, Channel

if TYPE_CHECKING:
    import polars as pl

When = str | date | datetime | None

_END = re.compile(r"\\[zZ]$")
"""How Python's patterns end; those of Polars end otherwise."""


def scan(
    dataset: str,
    store: str | Path,
    *,
    symbols: str | Sequence[str] | None = None,
    start: str | date | datetime | None = None,
    end: str | date | datetime | None = None,
    feed: str = "",
    timeframe: str = "",
    adjustment: str = "",
) -> pl.LazyFrame:
    """A dataset of a store as a lazy frame: `scan("stocks.trades", "store", symbols=["AAPL"])`.

    History that was fetched and frames that were recorded are one table. A row that is in both, or in
    several feeds, is there once, as history has it. Which rows are the same is declared with the channel
    (`Channel.identity`): trades of stocks by symbol, time, exchange, id, price and size, their quotes by
    symbol and time; of crypto likewise, each feed apart; bars by feed, symbol, time and timeframe (of a
    live bar its last update); articles by id; all else by feed and all its columns.

    Columns are those of the live frame, times Datetime("ns", "UTC"), symbols and codes String, and before
    them the partition's: `feed`, for bars `timeframe` (and `adjustment`), `date` or `year`. What is given
    here, and filters on symbols and the partition's columns, decide which files are read at all; a filter
    on a time does not (times are put together of two columns), so give `start` and `end`. `start` is
    inside, `end` is not (a date as `end` includes that day). `symbols` may be patterns of `*`, `?` and
    `[…]`. Bars of all timeframes and adjustments in the store come together unless one is named. `store`
    may be an object store's, as s3://bucket/prefix. Raises `NoStoreError` where there is no such table,
    and `StoreError` where it cannot be read.
    """
    import polars as pl

    dataset = resolve_dataset(dataset)
    channel, history = _of(dataset)
    options = storage_options(str(store))
    past = _table(f"{store}/{dataset}", options) if history else None
    feeds = _feeds(f"{store}/{dataset}", options) if past is not None and not feed else []
    live = _table(f"{store}/live/{dataset}", options)
    if past is None and live is None:
        raise NoStoreError(
            f"no {dataset} in {store}: fetch some, as with mdstream backfill {dataset}, or record some, "
            "as with mdstream run --record"
        )
    if live is not None and history is not None:
        live = _as_history(live, history)
        if past is not None:
            live = _widened(live, past.collect_schema())
    found = [
        _chosen(frame, dataset, channel, (start, end), (feed, timeframe, adjustment))
        for frame in (past, live)
        if frame is not None
    ]
    if channel.revised_by:
        return _newest(found, channel, symbols)
    if symbols is not None:
        fits = _fitting(pl.col("symbol"), as_list(symbols))
        found = [frame.filter(fits) for frame in found]
    if past is not None and len(feeds) > 1 and "feed" not in channel.identity:
        found[0] = _once(found[0], feeds, channel)
    if live is not None:
        recorded = found[-1]
        if history is not None and history.bars:
            recorded = recorded.sort(RECV_TS.name, RECV_TS.name + BEYOND)  # updates come later
        found[-1] = recorded = recorded.unique(_recorded_keys(recorded, channel), keep="last")
        if past is not None:
            found[-1] = _beyond(found[0], recorded, channel)
    return _whole_times(_joined(found))


def _of(dataset: str) -> tuple[Channel, History | None]:
    """The channel whose rows a dataset holds, and how its history is fetched, if there is any."""
    stream, _, name = dataset.partition(".")
    spec = STREAMS.get(stream)
    channels = spec.with_bars if spec else {}
    for history in spec.history if spec else ():
        if history.channel == name:
            return channels[history.rows or name], history
    if name in channels:
        return channels[name], None
    known = [f"{s.name}.{c.name}" for s in STREAMS.values() for c in s.channels]
    raise ConfigError(
        f"no dataset {dataset!r}; there are {', '.join(dict.fromkeys((*datasets(), *known)))}"
    )


def _table(uri: str, options: dict[str, str]) -> pl.LazyFrame | None:
    import polars as pl
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        if not DeltaTable.is_deltatable(uri, options or None):
            return None
        return pl.scan_delta(uri, storage_options=options or None)
    except (OSError, DeltaError) as error:
        raise StoreError(f"store: {uri} cannot be read: {plain(error)}") from error


def _feeds(uri: str, options: dict[str, str]) -> list[str]:
    """The feeds that a table of history has rows of."""
    from deltalake import DeltaTable

    partitions = DeltaTable(uri, storage_options=options or None).partitions()
    return sorted({str(each["feed"]) for each in partitions})


def _once(past: pl.LazyFrame, feeds: Sequence[str], channel: Channel) -> pl.LazyFrame:
    """What several feeds have, once, as the first of them has it."""
    import polars as pl

    whole = past.filter(pl.col("feed") == feeds[0])
    for feed in feeds[1:]:
        more = past.filter(pl.col("feed") == feed)
        whole = pl.concat([whole, _beyond(whole, more, channel)])
    return whole


def _as_history(live: pl.LazyFrame, history: History) -> pl.LazyFrame:
    """Recorded rows in the kinds and the partitions of history."""
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


def _widened(live: pl.LazyFrame, past: pl.Schema) -> pl.LazyFrame:
    """Recorded rows with the columns that only history has, empty: pictures of articles."""
    import polars as pl

    names = live.collect_schema().names()
    return live.with_columns(
        pl.lit(None, kind).alias(name) for name, kind in past.items() if name not in names
    )


def _chosen(
    frame: pl.LazyFrame,
    dataset: str,
    channel: Channel,
    span: tuple[When, When],
    kinds: tuple[str, str, str],
) -> pl.LazyFrame:
    """The rows of the kind and the time that are asked for."""
    import polars as pl

    names = frame.collect_schema().names()
    for name, wanted in zip(("feed", "timeframe", "adjustment"), kinds, strict=True):
        if wanted and name not in names:
            raise ConfigError(f"{dataset} has no {name}")
        if wanted:
            frame = frame.filter(pl.col(name) == wanted)
    time, partition = channel.time, "date" if "date" in names else "year"
    for value, bound, whole_day in ((span[0], "start", False), (span[1], "end", True)):
        if value is not None:
            at_ns = parse_time(value, bound, whole_day)
            frame = frame.filter(*_bounded(time, at_ns, bound, partition))
    return frame


def _newest(
    found: Sequence[pl.LazyFrame], channel: Channel, symbols: str | Sequence[str] | None
) -> pl.LazyFrame:
    """Rows that are revised, each in its last revision, and as history has it where both have that."""
    import polars as pl

    frame = _whole_times(_joined(found))
    frame = frame.sort(channel.revised_by, descending=True, nulls_last=True, maintain_order=True)
    frame = frame.unique(channel.identity, keep="first", maintain_order=True).reverse()
    if symbols is None:
        return frame
    fits = _fitting(pl.element(), as_list(symbols))
    return frame.filter(pl.col("symbols").list.eval(fits).list.any())


def _fitting(symbol: pl.Expr, wanted: Sequence[str]) -> pl.Expr:
    """Whether a symbol is one of these, or fits a pattern among them."""
    for name in wanted:
        if "," in name:
            raise ConfigError(f"{name!r} is no symbol: give a list of them")
    fits = symbol.is_in([name for name in wanted if not is_pattern(name)])
    for pattern in filter(is_pattern, wanted):
        # Python writes a second `*` as an atomic group, which Polars' patterns do not have, nor need.
        translated = fnmatch.translate(pattern).replace("(?>", "(?:")
        fits |= symbol.str.contains(_END.sub("$", f"^{translated}"))
    return fits


def _keys(frame: pl.LazyFrame, channel: Channel) -> list[str]:
    """The columns of the identity, as they are stored; those that `frame` lacks are left out."""
    names = frame.collect_schema().names()
    return [n for name in channel.identity for n in (name, name + BEYOND) if n in names]


def _recorded_keys(recorded: pl.LazyFrame, channel: Channel) -> list[str]:
    """The columns by which two recorded rows are one, as two runs side by side have them: of bars the
    identity, for updates come as rows of their own; of all else all columns but when it came, and the feed
    where that makes no difference.
    """
    if "timeframe" in channel.identity:
        return _keys(recorded, channel)
    apart = {RECV_TS.name, RECV_TS.name + BEYOND}
    if "feed" not in channel.identity:
        apart.add("feed")
    return [name for name in recorded.collect_schema().names() if name not in apart]


def _beyond(past: pl.LazyFrame, live: pl.LazyFrame, channel: Channel) -> pl.LazyFrame:
    """Recorded rows that history has not."""
    keys = _keys(live, channel)
    return live.join(past.select(keys).unique(), on=keys, how="anti", nulls_equal=True)


def _joined(found: Sequence[pl.LazyFrame]) -> pl.LazyFrame:
    import polars as pl

    names = found[0].collect_schema().names()
    return pl.concat([frame.select(names) for frame in found], how="vertical_relaxed")


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
