"""Read a dataset of the store as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mdstream.errors import ConfigError, NoStoreError, StoreError, UnknownNameError
from mdstream.reading.arguments import list_symbols, require
from mdstream.reading.zones import Zone, read_zone, show_in_zone
from mdstream.store.amendments import Trades, merge_valid, read_amendments
from mdstream.store.arrival import sort_by_arrival
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
from mdstream.store.query import When, matches, parse_time
from mdstream.store.rejects import scan_kept
from mdstream.store.schema import NS_SUFFIX, ROW, RUN
from mdstream.store.sources import DatasetPart, list_identity_columns, merge
from mdstream.streams import STREAMS
from mdstream.streams.bar_rules import BarRules
from mdstream.streams.datasets import datasets, resolve_dataset
from mdstream.streams.rest_spec import HistorySpec
from mdstream.streams.spec import REJECTS, Channel, StreamSpec
from mdstream.system.paths import require_store
from mdstream.venues.alpaca.timeframes import name_timeframe

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

_RECORDED_BARS = {"timeframe": ("1Min", "1Day"), "adjustment": ("raw",)}
"""What recorded bars have in the partition columns that only history stores."""

_IS_FETCHED = "_is_fetched"


def scan(  # noqa: PLR0913 (each is a flag of `mdstream export`, or how rows are shown)
    dataset: str,
    store: str | Path,
    *,
    symbols: str | Sequence[str] | None = None,
    start: When | None = None,
    end: When | None = None,
    feed: str | None = None,
    timeframe: str | timedelta | None = None,
    adjustment: str | None = None,
    amended: bool = False,
    numbered: bool = False,
    session: str | Sequence[str] | None = None,
    tz: Zone = "UTC",
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
    them in the column `update`. Recorded cancels and corrections do not set the mark. Both have an effect
    on the trades of all sources, whatever `feed`, `start` and `end` are.

    With `numbered`, rows have the column `row`, the number of a recorded row in the frame of its run. Rows
    of history, and of versions that did not store it, have null. Sorted by `recv_ts` and `row`, rows are in
    the order of arrival. All revisions of `bars_1s` and `bars_1m` are returned, so the last one of a symbol
    and time is known.

    `<stream>.rejects` has what could not become a row, of runs and of history, and nothing is merged.

    The columns are those of the live frame. Times are Datetime("ns", "UTC"); symbols and codes are String.
    The partition's columns come first: `feed`, for bars `timeframe` (and `adjustment`), then `date` or
    `year`.

    `start` is inclusive, `end` exclusive; a date as `end` includes that day. `symbols` may be patterns of
    `*`, `?` and `[…]`. Bars of all timeframes and adjustments are returned unless one is given. `store` is
    a folder or an object store, as s3://bucket/prefix.

    `session` keeps the rows of sessions of the market in New York: `regular`, `pre`, `post`, `overnight`,
    or a list of these. A bar counts by its start; one of a day or longer is in none of them, and to ask
    for such a `timeframe` is an error. A market that never closes is always `regular`.

    `tz` is the zone of the times that are returned, and of a `start` and `end` that name none. It is a
    name, such as "America/New_York", a zone of `zoneinfo`, or a fixed offset of whole hours. A date begins
    at midnight there.

    The arguments, and filters on symbols or on the partition's columns, decide which files are read. A
    filter on a time column does not, because times are stored in two columns: use `start` and `end`.

    A symbol, feed, timeframe or adjustment that the table does not have, and that was never requested, is
    an error. So is a pattern that matches none; with `unknown="empty"` it has no rows.

    Raises `UnknownNameError` for such a name and for an unknown dataset, `ConfigError` for another wrong
    argument, `NoStoreError` if there is no such table, and `StoreError` if it cannot be read.
    """
    dataset = resolve_dataset(dataset)
    channel, history = _find_channel(dataset)
    require_store("store", store)
    zone = read_zone(tz)
    if unknown not in ("error", "empty"):
        raise ConfigError(f"unknown: {unknown!r} is neither 'error' nor 'empty'")
    timeframe = name_timeframe(timeframe) if isinstance(timeframe, timedelta) else timeframe or ""
    kinds = {"feed": feed or "", "timeframe": timeframe, "adjustment": adjustment or ""}
    require(str, **kinds)
    require(bool, amended=amended)
    wanted = Wanted(dataset, (start, end), kinds, zone)
    _check_span(start, end, zone)
    if channel is REJECTS and symbols is not None:
        raise ConfigError(f"{dataset} has no symbols; filter its column bytes")
    tables = _Tables.open(str(store), dataset)
    if channel is REJECTS and (rejects := _scan_rejects(store, tables.recorded, wanted)) is not None:
        if unknown == "error":
            check_kinds(str(store), dataset, wanted.kinds, tables.existing, {})
        kept = _keep_sessions(rejects, dataset, channel, session, timeframe)
        return show_in_zone(kept if numbered else kept.drop(ROW), zone)
    if not tables.existing:
        raise NoStoreError(f"no {dataset} in {store}: {_advise(dataset, channel, history)}")
    if unknown == "error":
        recorded = _RECORDED_BARS if history and history.bars and tables.recorded else {}
        check_kinds(str(store), dataset, wanted.kinds, tables.existing, recorded)
    if symbols is not None and unknown == "error":
        check_symbols(str(store), dataset, list_symbols(symbols), tables.existing)
    parts = tables.read(wanted, None if channel.revised_by else symbols)
    if channel.revised_by:
        rows = _keep_last_revisions(parts, channel, symbols)
    elif "timeframe" in channel.identity:
        rows = _keep_last_updates(parts, channel)
    elif amended:
        rows = merge(parts, channel, partition_of(parts[0].rows)).rows
    else:
        rows = _merge_valid(parts, tables, wanted, symbols)
    kept = _keep_sessions(_join_times(rows), dataset, channel, session, timeframe)
    return show_in_zone(kept if numbered else kept.drop(ROW), zone)


@dataclass(frozen=True, slots=True)
class _Tables:
    """The tables of a dataset, each None if there is none."""

    store: str
    channel: Channel
    history: HistorySpec | None
    fetched: DeltaTable | None
    recorded: DeltaTable | None

    @classmethod
    def open(cls, store: str, dataset: str) -> _Tables:
        """Open the tables of a dataset. Raises `StoreError`, and `UnknownNameError` for the dataset."""
        channel, history = _find_channel(dataset)
        options = storage_options(store)
        fetched = open_table(f"{store}/{dataset}", options) if history else None
        return cls(store, channel, history, fetched, open_table(f"{store}/live/{dataset}", options))

    @property
    def existing(self) -> list[DeltaTable]:
        return [table for table in (self.fetched, self.recorded) if table is not None]

    def read(self, wanted: Wanted, symbols: str | Sequence[str] | None = None) -> list[DatasetPart]:
        """Return the wanted rows of each table that exists, history first; without symbols, of all."""
        import polars as pl

        parts = [
            select(table, self.channel, self.history, wanted, is_recorded)
            for table, is_recorded in ((self.fetched, False), (self.recorded, True))
            if table is not None
        ]
        if symbols is None:
            return parts
        is_wanted = matches(pl.col("symbol"), list_symbols(symbols))
        return [replace(part, rows=part.rows.filter(is_wanted)) for part in parts]


def _advise(dataset: str, channel: Channel, history: HistorySpec | None) -> str:
    """Return how a store gets rows of a dataset."""
    if channel is REJECTS:
        return "nothing that was fetched or recorded there was rejected"
    record = "record some with mdstream run --record"
    return f"fetch some with mdstream backfill {dataset}, or {record}" if history else record


def _check_span(start: When | None, end: When | None, zone: tzinfo) -> None:
    """Raise `ConfigError` if `start` is not before `end`."""
    if start is None or end is None:
        return
    if parse_time(start, "start", zone=zone) >= parse_time(end, "end", whole_day=True, zone=zone):
        raise ConfigError(f"start {start} is not before end {end}")


def _keep_sessions(
    rows: pl.LazyFrame, dataset: str, channel: Channel, session: str | Sequence[str] | None, timeframe: str
) -> pl.LazyFrame:
    """Return the rows whose time is in one of these sessions of the market; None keeps all."""
    if session is None:
        return rows
    from mdstream.reading.market_sessions import keep_sessions

    return keep_sessions(rows, dataset, channel.time, session, timeframe)


def _merge_valid(
    parts: Sequence[DatasetPart], tables: _Tables, wanted: Wanted, symbols: str | Sequence[str] | None
) -> pl.LazyFrame:
    """Return the rows of these parts, merged, without amended trades.

    Whether a trade is amended does not depend on the wanted feed and times, so more is read to decide it.
    """
    channel, day = tables.channel, partition_of(parts[0].rows)
    stream = STREAMS[wanted.dataset.partition(".")[0]]
    rules = stream.bar_rules
    if rules is None or not rules.mark or channel.name != rules.trades:
        return merge(parts, channel, day).rows
    of_all_feeds = replace(wanted, kinds={**wanted.kinds, "feed": ""})
    trades = Trades(
        parts,
        tables.read(of_all_feeds, symbols),
        tables.read(replace(of_all_feeds, span=(None, None)), symbols),
        wanted.bounds,
    )
    amendments = _read_amendments(stream, rules, tables.store, symbols)
    return merge_valid(trades, amendments, channel, rules, day)


def _read_amendments(
    stream: StreamSpec, rules: BarRules, store: str, symbols: str | Sequence[str] | None
) -> pl.DataFrame | None:
    """Return the recorded cancels and corrections of trades; None if there is no table of them."""
    import polars as pl

    found = []
    for name in (rules.corrections, rules.cancels):
        table = open_table(f"{store}/live/{stream.name}.{name}", storage_options(store))
        if table is not None:
            kind = stream.by_name[name]
            rows = add_missing_columns(scan_widened(table, kind), kind, True)
            if symbols is not None:
                rows = rows.filter(matches(pl.col("symbol"), list_symbols(symbols)))
            found.append(read_amendments(rows, stream.by_name[rules.trades]))
    try:
        return pl.concat(found, how="vertical_relaxed").collect() if found else None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"store: {store}/live cannot be read: {summarize_error(error)}") from error


def scan_fetched(
    dataset: str,
    store: str | Path,
    symbols: Sequence[str],
    span: tuple[date, date],
    kinds: Mapping[str, str],
) -> pl.LazyFrame | None:
    """Return what backfills have stored of a dataset; None if that is nothing.

    Trades that were cancelled or corrected later are left out. `span` has the first day and the last one,
    `kinds` the values of the partition's columns `feed`, `timeframe` and `adjustment`; empty means all.
    """
    tables, wanted = _Tables.open(str(store), dataset), Wanted(dataset, span, kinds)
    if tables.fetched is None:
        return None
    fetched = [part for part in tables.read(wanted, symbols) if not part.is_recorded]
    return _join_times(_merge_valid(fetched, tables, wanted, symbols)).drop(ROW)


def _find_channel(dataset: str) -> tuple[Channel, HistorySpec | None]:
    """Return the channel whose rows a dataset holds, and how its history is fetched, if there is any."""
    stream, _, name = dataset.partition(".")
    spec = STREAMS.get(stream)
    channels = spec.row_channels if spec else {}
    for history in spec.history if spec else ():
        if history.channel == name:
            return channels[history.rows or name], history
    if name in channels:
        return channels[name], None
    known = [f"{spec.name}.{name}" for spec in STREAMS.values() for name in spec.row_channels]
    raise UnknownNameError.among([*datasets(), *known], dataset, f"{dataset!r} is not a dataset")


def _scan_rejects(store: str | Path, recorded: DeltaTable | None, wanted: Wanted) -> pl.LazyFrame | None:
    """Return the rejects of runs and of history; None if there are none."""
    import polars as pl

    history = scan_kept(store, wanted.dataset.partition(".")[0])
    parts = [] if recorded is None else [pl.scan_delta(recorded).drop(RUN, strict=False)]
    parts += [] if history is None else [history]
    if not parts:
        return None
    absent = pl.lit(None, pl.Int64).alias(ROW)
    parts = [p if ROW in p.collect_schema() else p.with_columns(absent) for p in parts]
    names = parts[0].collect_schema().names()
    rows = [filter_wanted(part, REJECTS, wanted).select(names) for part in parts]
    return _join_times(pl.concat(rows, how="vertical_relaxed"))


def _keep_last_revisions(
    parts: Sequence[DatasetPart], channel: Channel, symbols: str | Sequence[str] | None
) -> pl.LazyFrame:
    """Return the last revision of each row. If history and recorded rows have it, history wins."""
    import polars as pl

    by = [channel.revised_by, channel.revised_by + NS_SUFFIX, _IS_FETCHED]
    rows = [p.rows.with_columns(pl.lit(not p.is_recorded).alias(_IS_FETCHED)) for p in parts]
    frame = sort_by_arrival(_concat(rows), *by).drop(_IS_FETCHED)
    frame = frame.unique(channel.identity, keep="last", maintain_order=True)
    if symbols is None:
        return frame
    is_wanted = matches(pl.element(), list_symbols(symbols))
    return frame.filter(pl.col("symbols").list.eval(is_wanted).list.any())


def _keep_last_updates(parts: Sequence[DatasetPart], channel: Channel) -> pl.LazyFrame:
    """Return bars: those of history, and of the recorded ones that it lacks the last update."""
    rows = [part.rows for part in parts]
    keys = list_identity_columns(channel, rows[0].collect_schema().names())
    if parts[-1].is_recorded:
        rows[-1] = sort_by_arrival(rows[-1]).unique(keys, keep="last")
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
