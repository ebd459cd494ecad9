"""Read a dataset of the store as one table."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mdstream.errors import ConfigError, NoStoreError, StoreError
from mdstream.store.objects import storage_options, summarize_error
from mdstream.store.query import When, as_list, is_pattern, parse_time
from mdstream.store.schema import NS_SUFFIX, find_widened
from mdstream.streams import STREAMS
from mdstream.streams.datasets import datasets, resolve_dataset
from mdstream.streams.rest_spec import History
from mdstream.streams.spec import RECV_TS, Channel

if TYPE_CHECKING:
    import polars as pl

_END = re.compile(r"\\[zZ]$")
"""End of the patterns of `fnmatch`, which Polars does not understand."""


def scan(
    dataset: str,
    store: str | Path,
    *,
    symbols: str | Sequence[str] | None = None,
    start: When | None = None,
    end: When | None = None,
    feed: str = "",
    timeframe: str = "",
    adjustment: str = "",
) -> pl.LazyFrame:
    """Return a dataset of a store as a lazy frame: `scan("stocks.trades", "store", symbols=["AAPL"])`.

    Fetched history and recorded frames form one table. A row that is in both, or in several feeds, is
    returned once, as history has it. Each channel declares which rows are the same (`Channel.identity`):

        stocks.trades       symbol, time, exchange, id, price and size
        stocks.quotes       symbol and time
        crypto              as for stocks, but each feed apart
        bars                feed, symbol, time and timeframe; of a live bar, the last update counts
        news                id; the last revision counts
        everything else     feed and all columns

    The columns are those of the live frame. Times are Datetime("ns", "UTC"); symbols and codes are String.
    The partition's columns come first: `feed`, for bars `timeframe` (and `adjustment`), then `date` or
    `year`.

    `start` is inclusive, `end` exclusive; a date as `end` includes that day. `symbols` may be patterns of
    `*`, `?` and `[…]`. Bars of all timeframes and adjustments are returned unless one is given. `store` is
    a folder or an object store, as s3://bucket/prefix.

    The arguments, and filters on symbols or on the partition's columns, decide which files are read. A
    filter on a time column does not, because times are stored in two columns: use `start` and `end`.

    Raises `ConfigError` for an unknown dataset or argument, `NoStoreError` if there is no such table, and
    `StoreError` if it cannot be read.
    """
    import polars as pl

    dataset = resolve_dataset(dataset)
    channel, history = _find_channel(dataset)
    options = storage_options(str(store))
    past = _open_table(f"{store}/{dataset}", options, channel) if history else None
    live = _open_table(f"{store}/live/{dataset}", options, channel)
    if past is None and live is None:
        raise NoStoreError(
            f"no {dataset} in {store}: fetch some with mdstream backfill {dataset}, or record some with "
            "mdstream run --record"
        )
    if live is not None and history is not None:
        live = _as_history(live, history)
        if past is not None:
            live = _add_missing_columns(live, past.collect_schema())
    parts = [
        _select(frame, dataset, channel, (start, end), (feed, timeframe, adjustment))
        for frame in (past, live)
        if frame is not None
    ]
    if channel.revised_by:
        return _keep_last_revisions(parts, channel, symbols)
    if symbols is not None:
        is_wanted = _matches(pl.col("symbol"), as_list(symbols))
        parts = [part.filter(is_wanted) for part in parts]
    if live is not None:
        parts[-1] = _drop_duplicates(parts[-1], channel)
    if past is not None and not feed and "feed" not in channel.identity:
        feeds = _list_feeds(f"{store}/{dataset}", options)
        if len(feeds) > 1:
            parts[:1] = [parts[0].filter(pl.col("feed") == name) for name in feeds]
    whole = parts[0]
    for part in parts[1:]:  # of rows that several parts have, the first part's count
        whole = _concat([whole, _without_known(whole, part, channel)])
    return _join_times(whole)


def _find_channel(dataset: str) -> tuple[Channel, History | None]:
    """Return the channel whose rows a dataset holds, and how its history is fetched, if there is any."""
    stream, _, name = dataset.partition(".")
    spec = STREAMS.get(stream)
    channels = spec.row_channels if spec else {}
    for history in spec.history if spec else ():
        if history.channel == name:
            return channels[history.rows or name], history
    if name in channels:
        return channels[name], None
    known = [f"{s.name}.{c.name}" for s in STREAMS.values() for c in s.channels]
    raise ConfigError(
        f"{dataset!r} is not a dataset; choose one of {', '.join(dict.fromkeys((*datasets(), *known)))}"
    )


def _open_table(uri: str, options: dict[str, str], channel: Channel) -> pl.LazyFrame | None:
    """Return the rows of a table, in the types of this version; None if there is no table."""
    import polars as pl
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        if not DeltaTable.is_deltatable(uri, options or None):
            return None
        rows = pl.scan_delta(uri, storage_options=options or None)
    except (OSError, DeltaError) as error:
        raise StoreError(f"store: {uri} cannot be read: {summarize_error(error)}") from error
    whole = [name for name, kind in rows.collect_schema().items() if kind.is_integer()]
    return rows.with_columns(pl.col(find_widened(channel, whole)).cast(pl.Float64))


def _list_feeds(uri: str, options: dict[str, str]) -> list[str]:
    """Return the feeds of a table of history, sorted."""
    from deltalake import DeltaTable

    partitions = DeltaTable(uri, storage_options=options or None).partitions()
    return sorted({str(each["feed"]) for each in partitions})


def _as_history(live: pl.LazyFrame, history: History) -> pl.LazyFrame:
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


def _add_missing_columns(live: pl.LazyFrame, past: pl.Schema) -> pl.LazyFrame:
    """Return recorded rows with the columns that only history has (images of articles), all null."""
    import polars as pl

    names = live.collect_schema().names()
    return live.with_columns(
        pl.lit(None, kind).alias(name) for name, kind in past.items() if name not in names
    )


def _select(
    frame: pl.LazyFrame,
    dataset: str,
    channel: Channel,
    span: tuple[When | None, When | None],
    kinds: tuple[str, str, str],
) -> pl.LazyFrame:
    """Return the rows that match the feed, timeframe, adjustment and time range."""
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
            frame = frame.filter(*_time_conditions(time, at_ns, bound, partition))
    return frame


def _keep_last_revisions(
    parts: Sequence[pl.LazyFrame], channel: Channel, symbols: str | Sequence[str] | None
) -> pl.LazyFrame:
    """Return the last revision of each row. If history and recorded rows have it, history wins."""
    import polars as pl

    frame = _join_times(_concat(parts))
    frame = frame.sort(channel.revised_by, descending=True, nulls_last=True, maintain_order=True)
    frame = frame.unique(channel.identity, keep="first", maintain_order=True).reverse()
    if symbols is None:
        return frame
    is_wanted = _matches(pl.element(), as_list(symbols))
    return frame.filter(pl.col("symbols").list.eval(is_wanted).list.any())


def _matches(symbol: pl.Expr, wanted: Sequence[str]) -> pl.Expr:
    """Return an expression that is true if a symbol is one of `wanted` or matches a pattern among them."""
    for name in wanted:
        if "," in name:
            raise ConfigError(f"{name!r} is not a symbol: pass several symbols as a list")
    matches = symbol.is_in([name for name in wanted if not is_pattern(name)])
    for pattern in filter(is_pattern, wanted):
        # Python writes a second `*` as an atomic group, which the patterns of Polars neither have nor need.
        translated = fnmatch.translate(pattern).replace("(?>", "(?:")
        matches |= symbol.str.contains(_END.sub("$", f"^{translated}"))
    return matches


def _identity_columns(frame: pl.LazyFrame, channel: Channel) -> list[str]:
    """Return the stored columns of the channel's identity that `frame` has."""
    names = frame.collect_schema().names()
    return [n for name in channel.identity for n in (name, name + NS_SUFFIX) if n in names]


def _drop_duplicates(recorded: pl.LazyFrame, channel: Channel) -> pl.LazyFrame:
    """Return recorded rows without duplicates: two runs may record side by side.

    Each update of a bar is a row: the last one stays. Other rows are duplicates if all their columns are
    equal, except the time of receipt, and except the feed if the channel's identity lacks it.
    """
    received = [RECV_TS.name, RECV_TS.name + NS_SUFFIX]
    if "timeframe" in channel.identity:
        keys = _identity_columns(recorded, channel)
        return recorded.sort(received).unique(keys, keep="last")
    ignored = received if "feed" in channel.identity else [*received, "feed"]
    keys = [name for name in recorded.collect_schema().names() if name not in ignored]
    return recorded.unique(keys, keep="last")


def _without_known(known: pl.LazyFrame, more: pl.LazyFrame, channel: Channel) -> pl.LazyFrame:
    """Return the rows of `more` that `known` does not have."""
    keys = _identity_columns(more, channel)
    return more.join(known.select(keys).unique(), on=keys, how="anti", nulls_equal=True)


def _concat(parts: Sequence[pl.LazyFrame]) -> pl.LazyFrame:
    import polars as pl

    names = parts[0].collect_schema().names()
    return pl.concat([part.select(names) for part in parts], how="vertical_relaxed")


def _time_conditions(time: str, at_ns: int, bound: str, partition: str) -> list[pl.Expr]:
    """Return conditions on the partition, on the microsecond, and on the nanoseconds beyond it."""
    import polars as pl

    micro, beyond = divmod(at_ns, 1000)
    when = pl.lit(micro).cast(pl.Datetime("us", "UTC"))
    day = when.dt.date() if partition == "date" else when.dt.year()
    exact = pl.col(time), pl.col(time + NS_SUFFIX)
    if bound == "start":
        inside = (exact[0] > when) | ((exact[0] == when) & (exact[1] >= beyond))
        return [pl.col(partition) >= day, exact[0] >= when, inside]
    inside = (exact[0] < when) | ((exact[0] == when) & (exact[1] < beyond))
    return [pl.col(partition) <= day, exact[0] <= when, inside]


def _join_times(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Join microseconds and the nanoseconds beyond them to one column for each time."""
    import polars as pl

    names = frame.collect_schema().names()
    times = [name for name in names if name + NS_SUFFIX in names]
    whole = [
        (pl.col(n).dt.epoch("us") * 1000 + pl.col(n + NS_SUFFIX).cast(pl.Int64))
        .cast(pl.Datetime("ns", "UTC"))
        .alias(n)
        for n in times
    ]
    return frame.with_columns(whole).drop([name + NS_SUFFIX for name in times])
