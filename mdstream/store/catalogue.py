"""Read a dataset of the store as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mdstream.errors import ConfigError, NoStoreError, StoreError, UnknownNameError
from mdstream.reading.zones import read_zone, show_in_zone
from mdstream.store.amendments import drop_amended, drop_marked, read_amendments
from mdstream.store.dataset_tables import (
    Wanted,
    add_missing_columns,
    filter_wanted,
    open_table,
    partition_of,
    scan_widened,
    select,
)
from mdstream.store.known_names import check_kinds, check_symbols
from mdstream.store.objects import storage_options, summarize_error
from mdstream.store.query import When, as_list, matches, parse_time
from mdstream.store.rejects import scan_kept
from mdstream.store.schema import NS_SUFFIX, RUN
from mdstream.store.sources import Part, list_identity_columns, merge
from mdstream.streams import STREAMS
from mdstream.streams.bar_rules import BarRules
from mdstream.streams.datasets import datasets, resolve_dataset
from mdstream.streams.rest_spec import History
from mdstream.streams.spec import RECV_TS, REJECTS, Channel, StreamSpec
from mdstream.system.paths import require_path
from mdstream.venues.alpaca import sessions

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

_RECORDED_BARS = {"timeframe": ("1Min", "1Day"), "adjustment": ("raw",)}
"""What recorded bars have in the partition columns that only history stores."""


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
    amended: bool = False,
    session: str | Sequence[str] | None = None,
    tz: str | tzinfo = "UTC",
    unknown: Literal["error", "empty"] = "error",
) -> pl.LazyFrame:
    """Return a dataset of a store as a lazy frame: `scan("stocks.trades", "store", symbols=["AAPL"])`.

    Fetched history and recorded frames form one table. Its sources are the history of each feed, and each
    run. A row that several sources have is returned as often as one of them has it, as history has it.
    Equal rows of one source stay. Each channel declares which rows are the same (`Channel.identity`):

        stocks.trades       symbol, time, exchange, id, price and size
        stocks.quotes       symbol, time, and both sides
        crypto              as for stocks, but each feed apart
        bars                feed, symbol, time and timeframe; of a live bar, the last update counts
        news                id; the last revision counts
        everything else     feed and all columns

    Trades that were cancelled or corrected later are left out, unless `amended` is true. History marks
    them in the column `update`. Recorded cancels and corrections have an effect on the trades of all
    sources, but do not set the mark.

    `<stream>.rejects` has what could not become a row, of runs and of history, and nothing is merged.

    The columns are those of the live frame. Times are Datetime("ns", "UTC"); symbols and codes are String.
    The partition's columns come first: `feed`, for bars `timeframe` (and `adjustment`), then `date` or
    `year`.

    `start` is inclusive, `end` exclusive; a date as `end` includes that day. `symbols` may be patterns of
    `*`, `?` and `[…]`. Bars of all timeframes and adjustments are returned unless one is given. `store` is
    a folder or an object store, as s3://bucket/prefix.

    `session` keeps the rows of sessions of the market in New York: `regular`, `pre`, `post`, `overnight`,
    or a list of these. A bar counts by its start. A market that never closes is always `regular`.

    `tz` is the zone of the times that are returned, and of a `start` and `end` that name none, such as
    "America/New_York". A date begins at midnight there.

    The arguments, and filters on symbols or on the partition's columns, decide which files are read. A
    filter on a time column does not, because times are stored in two columns: use `start` and `end`.

    A symbol, feed, timeframe or adjustment that the table does not have, and that was never requested, is
    an error, and so is a pattern that matches none; with `unknown="empty"` it has no rows.

    Raises `UnknownNameError` for such a name and for an unknown dataset, `ConfigError` for another wrong
    argument, `NoStoreError` if there is no such table, and `StoreError` if it cannot be read.
    """
    import polars as pl

    dataset = resolve_dataset(dataset)
    channel, history = _find_channel(dataset)
    require_path("store", store)
    options = storage_options(str(store))
    zone = read_zone(tz)
    kinds = {"feed": feed, "timeframe": timeframe, "adjustment": adjustment}
    wanted = Wanted(dataset, (start, end), kinds, zone)
    _check_span(start, end, zone)
    if channel is REJECTS and symbols is not None:
        raise ConfigError(f"{dataset} has no symbols; filter its column bytes")
    tables = [
        (open_table(f"{store}/{dataset}", options) if history else None, False),
        (open_table(f"{store}/live/{dataset}", options), True),
    ]
    existing = [table for table, _ in tables if table is not None]
    if channel is REJECTS and (rejects := _scan_rejects(store, tables[1][0], wanted)) is not None:
        if unknown == "error":
            check_kinds(str(store), dataset, wanted.kinds, existing, {})
        return show_in_zone(rejects, zone)
    parts = [
        select(table, channel, history, wanted, is_recorded)
        for table, is_recorded in tables
        if table is not None
    ]
    if not parts:
        raise NoStoreError(
            f"no {dataset} in {store}: fetch some with mdstream backfill {dataset}, or record some with "
            "mdstream run --record"
        )
    if unknown == "error":
        recorded = _RECORDED_BARS if history and history.bars and tables[1][0] else {}
        check_kinds(str(store), dataset, wanted.kinds, existing, recorded)
    if symbols is not None and unknown == "error":
        check_symbols(str(store), dataset, as_list(symbols), existing)
    if channel.revised_by:
        revised = _keep_last_revisions(parts, channel, symbols)
        return show_in_zone(_keep_sessions(revised, dataset, channel, session), zone)
    if symbols is not None:
        is_wanted = matches(pl.col("symbol"), as_list(symbols))
        parts = [replace(part, rows=part.rows.filter(is_wanted)) for part in parts]
    if "timeframe" in channel.identity:
        rows = _keep_last_updates(parts, channel)
    else:
        rows = _merge_sources(parts, channel, dataset, None if amended else f"{store}/live", options)
    return show_in_zone(_keep_sessions(_join_times(rows), dataset, channel, session), zone)


def _check_span(start: When | None, end: When | None, zone: tzinfo) -> None:
    """Raise `ConfigError` if `start` is not before `end`."""
    if start is None or end is None:
        return
    if parse_time(start, "start", zone=zone) >= parse_time(end, "end", whole_day=True, zone=zone):
        raise ConfigError(f"start {start} is not before end {end}")


def _keep_sessions(
    rows: pl.LazyFrame, dataset: str, channel: Channel, session: str | Sequence[str] | None
) -> pl.LazyFrame:
    """Return the rows whose time is in one of these sessions; None keeps all."""
    if session is None:
        return rows
    import polars as pl

    wanted = sessions.read_sessions(session)
    if STREAMS[dataset.partition(".")[0]].always_open:
        return rows if sessions.Session.REGULAR in wanted else rows.filter(pl.lit(False))
    found = pl.col(channel.time).map_batches(sessions.classify, pl.String, is_elementwise=True)
    return rows.filter(found.is_in(wanted).fill_null(False))


def _merge_sources(
    parts: Sequence[Part], channel: Channel, dataset: str, live: str | None, options: dict[str, str]
) -> pl.LazyFrame:
    """Return the rows of all sources, without amended trades if `live` is given.

    `live` is the folder of recorded tables.
    """
    import polars as pl

    day = partition_of(parts[0].rows)
    stream = STREAMS[dataset.partition(".")[0]]
    rules = stream.bar_rules
    if live is None or rules is None or not rules.mark or channel.name != rules.trades:
        return merge(parts, channel, day).rows

    def keep_valid(some: Sequence[Part]) -> pl.LazyFrame:
        return drop_marked(merge(some, channel, day), [part.rows for part in some], channel, rules)

    amendments = _read_amendments(stream, rules, live, options)
    if amendments is None:
        return keep_valid(parts)
    # The few trades with an id that is amended are read apart: the others need no further join.
    try:
        ids = amendments.select(pl.col("id").unique()).collect()["id"]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"store: {live} cannot be read: {summarize_error(error)}") from error
    is_named = pl.col("id").is_in(ids.implode()).fill_null(False)
    others = [replace(part, rows=part.rows.filter(~is_named)) for part in parts]
    named = [replace(part, rows=part.rows.filter(is_named)) for part in parts]
    return pl.concat([keep_valid(others), drop_amended(keep_valid(named), amendments, channel)])


def _read_amendments(
    stream: StreamSpec, rules: BarRules, live: str, options: dict[str, str]
) -> pl.LazyFrame | None:
    """Return the recorded cancels and corrections of trades; None if there is no table of them."""
    import polars as pl

    found = []
    for name in (rules.corrections, rules.cancels):
        table = open_table(f"{live}/{stream.name}.{name}", options)
        if table is not None:
            kind = stream.by_name[name]
            rows = add_missing_columns(scan_widened(table, kind), kind, True)
            found.append(read_amendments(rows, stream.by_name[rules.trades]))
    return pl.concat(found, how="vertical_relaxed") if found else None


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
    raise UnknownNameError.among([*datasets(), *known], dataset, f"{dataset!r} is not a dataset")


def _scan_rejects(store: str | Path, recorded: DeltaTable | None, wanted: Wanted) -> pl.LazyFrame | None:
    """Return the rejects of runs and of history; None if there are none."""
    import polars as pl

    history = scan_kept(store, wanted.dataset.partition(".")[0])
    parts = [] if recorded is None else [pl.scan_delta(recorded).drop(RUN, strict=False)]
    parts += [] if history is None else [history]
    if not parts:
        return None
    names = parts[0].collect_schema().names()
    rows = [filter_wanted(part, REJECTS, wanted).select(names) for part in parts]
    return _join_times(pl.concat(rows, how="vertical_relaxed"))


def _keep_last_revisions(
    parts: Sequence[Part], channel: Channel, symbols: str | Sequence[str] | None
) -> pl.LazyFrame:
    """Return the last revision of each row. If history and recorded rows have it, history wins."""
    import polars as pl

    frame = _join_times(_concat([part.rows for part in parts])).drop(RUN, strict=False)
    frame = frame.sort(channel.revised_by, descending=True, nulls_last=True, maintain_order=True)
    frame = frame.unique(channel.identity, keep="first", maintain_order=True).reverse()
    if symbols is None:
        return frame
    is_wanted = matches(pl.element(), as_list(symbols))
    return frame.filter(pl.col("symbols").list.eval(is_wanted).list.any())


def _keep_last_updates(parts: Sequence[Part], channel: Channel) -> pl.LazyFrame:
    """Return bars: those of history, and of the recorded ones that it lacks the last update."""
    rows = [part.rows for part in parts]
    keys = list_identity_columns(channel, rows[0].collect_schema().names())
    if parts[-1].is_recorded:
        received = [RECV_TS.name, RECV_TS.name + NS_SUFFIX]
        rows[-1] = rows[-1].sort(received).unique(keys, keep="last")
    if len(rows) > 1:
        rows[-1] = rows[-1].join(rows[0].select(keys), on=keys, how="anti", nulls_equal=True)
    return _concat(rows)


def _concat(parts: Sequence[pl.LazyFrame]) -> pl.LazyFrame:
    import polars as pl

    names = [name for name in parts[0].collect_schema().names() if name != RUN]
    return pl.concat([part.select(names) for part in parts], how="vertical_relaxed")


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
