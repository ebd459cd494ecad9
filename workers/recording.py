"""Rows of frames to Delta tables, each exactly once.

A commit has its files and the number after the last recorded row of the frame (a Delta transaction
identifier); the table has both or neither. So a ticket that is repeated after a kill adds only the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdstream.errors import StoreError
from mdstream.frames.rundir import frame_path
from mdstream.handoff.record_ticket import CompactTicket, RecordReceipt, RecordTicket
from mdstream.reading.reader import FrameReader
from mdstream.store.migration import migrate
from mdstream.store.objects import summarize_error
from mdstream.store.schema import LARGEST_INT, NS_SUFFIX, RUN, polars_schema, why_too_large
from mdstream.streams import STREAMS
from mdstream.streams.spec import CODED, Channel, Kind

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

PARTITION = ("feed", "date")
_TARGET_BYTES = 256 * 1024 * 1024
"""Target size of the files that compaction makes."""

_MOST_REASONS = 5
"""Most unstorable rows of one ticket for which the receipt has the reason."""

_readers: dict[str, FrameReader] = {}
_tables: dict[str, Any] = {}


def record(ticket: RecordTicket) -> RecordReceipt:
    """Add rows of a frame to its table. Raises `StoreError` if that fails; the table is then unchanged."""
    from deltalake import CommitProperties, Transaction, WriterProperties, write_deltalake

    name = transaction(ticket.run, ticket.frame)
    with _translate_errors(ticket.table):
        table = _open(ticket.table, ticket.options)
        done = (table.transaction_version(name) if table else None) or 0
        if done >= ticket.past or done < ticket.table_past:
            return RecordReceipt(done, 0, 0)
        wanted = max(done, ticket.first)
        first, rows = _reader(ticket.run, ticket.frame).read(wanted, ticket.past)
        if not rows.height:
            return RecordReceipt(first, 0, first - wanted)
        channel, past = channel_of(ticket.frame), first + rows.height
        if table is not None:
            migrate(table, channel)
        unstorable, reasons = _unstorable(rows, channel, first)
        if unstorable is not None:
            rows = rows.filter(~unstorable)
        write_deltalake(
            table or ticket.table,
            _to_arrow(rows, channel, ticket.feed, Path(ticket.run).name),
            mode="append",
            schema_mode="merge",  # a table of an earlier version gains the columns that it lacks
            partition_by=list(PARTITION),
            storage_options=ticket.options or None,
            writer_properties=WriterProperties(compression="ZSTD", compression_level=3),
            commit_properties=CommitProperties(app_transactions=[Transaction(name, past)]),
        )
    return RecordReceipt(past, rows.height, first - wanted, past - first - rows.height, reasons)


def find_recorded(ticket: RecordTicket) -> int:
    """Return the row after the last one of the frame that is in the table."""
    with _translate_errors(ticket.table):
        table = _open(ticket.table, ticket.options)
        name = transaction(ticket.run, ticket.frame)
        return (table.transaction_version(name) if table else None) or 0


def compact(ticket: CompactTicket) -> int:
    """Join small files to large ones, and remove old replaced files; return the number of small files."""
    from deltalake import WriterProperties

    with _translate_errors(ticket.table):
        table = _open(ticket.table, ticket.options)
        if table is None:
            return 0
        properties = WriterProperties(compression="ZSTD", compression_level=3)
        done = table.optimize.compact(target_size=_TARGET_BYTES, writer_properties=properties)
        table.create_checkpoint()
        table.vacuum(ticket.keep_hours, dry_run=False, enforce_retention_duration=False)
        return int(done["numFilesRemoved"])


def transaction(run: str, frame: str) -> str:
    """Return the transaction identifier for a frame of a run."""
    return f"{Path(run).name}/{frame}"


def channel_of(frame: str) -> Channel:
    """Return the channel whose rows a frame holds."""
    stream, _, name = frame.partition(".")
    return STREAMS[stream].row_channels[name]


def _open(uri: str, options: dict[str, str]) -> DeltaTable | None:
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        if uri in _tables:
            _tables[uri].update_incremental()
        else:
            _tables[uri] = DeltaTable(uri, storage_options=options or None)
    except TableNotFoundError:
        _tables.pop(uri, None)
    table: DeltaTable | None = _tables.get(uri)
    return table


def _reader(run: str, frame: str) -> FrameReader:
    path = str(frame_path(Path(run), frame))
    if path not in _readers:
        _readers[path] = FrameReader(Path(path))
    return _readers[path]


def _unstorable(
    rows: pl.DataFrame, channel: Channel, first: int
) -> tuple[pl.Series | None, tuple[str, ...]]:
    """Find rows with an integer that is too large for the table.

    Return a mask of them, None if there are none, and for the first few the row's number in the frame (the
    first of `rows` is `first`), the column and the value.
    """
    import polars as pl

    names = [c.name for c in channel.columns if c.kind is Kind.UINT and c.name in rows.columns]
    too_large = rows.select(pl.col(names) > LARGEST_INT).fill_null(value=False)
    if not names or not too_large.select(pl.any_horizontal(pl.all().any())).item():
        return None, ()
    reasons = [
        f"row {first + at}: {why_too_large(name, rows[name][at])}"
        for name in names
        for at in too_large[name].arg_true().head(_MOST_REASONS).to_list()
    ]
    return too_large.select(pl.any_horizontal(pl.all())).to_series(), tuple(reasons[:_MOST_REASONS])


def _to_arrow(rows: pl.DataFrame, channel: Channel, feed: str, run: str) -> Any:
    """Return rows as the table stores them: sorted by symbol and time, partition columns first."""
    import polars as pl

    time, kinds = channel.time, polars_schema(channel)
    columns: list[pl.Expr] = []
    for column in channel.columns:
        value = pl.col(column.name)
        if column.name not in rows.columns:  # the run is of an earlier version
            value = pl.lit(None, kinds[column.name]).alias(column.name)
        if column.kind is Kind.TIME:
            ns = value.dt.epoch("ns")
            columns.append((ns // 1000).cast(pl.Datetime("us", "UTC")).alias(column.name))
            columns.append((ns % 1000).cast(pl.Int16).alias(column.name + NS_SUFFIX))
        elif column.kind is Kind.SYMBOLS:
            columns.append(value.cast(pl.List(pl.String)))
        elif column.kind in CODED:
            columns.append(value.cast(pl.String))
        elif column.kind is Kind.UINT:
            columns.append(value.cast(pl.Int64))
        else:
            columns.append(value)
    day = pl.col(time).dt.date().alias("date")
    stored = rows.select(pl.lit(feed).alias("feed"), day, pl.lit(run).alias(RUN), *columns)
    order = [c.name for c in channel.columns if c.kind is Kind.SYMBOL]
    return stored.sort([*order, time, time + NS_SUFFIX], maintain_order=True).to_arrow()


@contextlib.contextmanager
def _translate_errors(table: str) -> Iterator[None]:
    """Translate errors of the Delta library to `StoreError`; they have no common base class, and a panic is
    not an `Exception`.

    The cached table may then be out of date, so the next attempt opens it again.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        _tables.pop(table, None)
        raise StoreError(_why(table, error)) from error


def _why(table: str, error: BaseException) -> str:
    text = summarize_error(error)
    if "No space left" in text or "Quota exceeded" in text:
        return f"store: no room at {table}; recording resumes when there is some"
    return f"store: {table}: {text[:300]}"
