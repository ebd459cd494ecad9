"""Rows of frames to Delta tables, each exactly once.

A commit has its files and the number after the last recorded row of the frame (a Delta transaction
identifier); the table has both or neither. So a ticket that is repeated after a kill adds only the rest.
A commit also has how many rows before that number the table lacks, and why, each kind that there is with an
identifier of its own. So a recorder that starts again knows them.

A row that the table refuses goes to the dataset `<stream>.rejects` first, and then its number to the table.
So each row is stored somewhere, and none is tried for ever.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdstream.errors import StoreError
from mdstream.frames.rundir import frame_path
from mdstream.handoff.record_ticket import CompactTicket, Lost, RecordReceipt, RecordTicket
from mdstream.handoff.rejects import RejectRow
from mdstream.reading.reader import FrameReader
from mdstream.store import compaction
from mdstream.store.migration import migrate
from mdstream.store.objects import find_errno, summarize_error
from mdstream.store.schema import LARGEST_INT, NS_SUFFIX, ROW, RUN, polars_schema, why_too_large
from mdstream.streams import STREAMS
from mdstream.streams.spec import CODED, RECV_TS, REJECTS, Channel, Kind

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable, WriterProperties

PARTITION = ("feed", "date")
_TARGET_BYTES = 256 * 1024 * 1024
"""Target size of the files that compaction makes."""

_MOST_REASONS = 5
"""Most refused rows of one ticket for which the receipt has the reason."""

_MOST_REJECTED = 100
"""Most rows of one ticket that become rejects because the table refuses them: it may refuse all."""

_readers: dict[str, FrameReader] = {}
_tables: dict[str, Any] = {}


def record(ticket: RecordTicket) -> RecordReceipt:
    """Add rows of a frame to its table. Raises `StoreError` if that fails; the table is then unchanged."""
    name = transaction(ticket.run, ticket.frame)
    with _translate_errors(ticket.table):
        table = _open(ticket.table, ticket.options)
        done = _read_version(table, name)
        if done >= ticket.past or done < ticket.table_past:
            return RecordReceipt(done, 0, _read_lost(table, name))
        lost = _read_lost(table, name) if done > ticket.first else ticket.lost
        wanted = max(done, ticket.first)
        first, rows = _reader(ticket.run, ticket.frame).read(wanted, ticket.past)
        lost = lost._replace(missed=lost.missed + first - wanted)
        if not rows.height:
            return RecordReceipt(first, 0, lost)
        if table is not None:
            migrate(table, channel_of(ticket.frame))
        batch = _TicketRows(ticket, first, rows, lost)
        batch.store()
    return RecordReceipt(batch.past, batch.stored, batch.lost, tuple(batch.reasons))


class _TicketRows:
    """Rows of a ticket on their way into the table."""

    # Written by the methods, with each commit.
    past: int
    """Number of the row after the last one that is stored or became a reject."""
    stored: int
    refused: int
    lost: Lost
    """What the table lacks of the rows before `past`."""
    reasons: list[str]
    """Reasons of the first refused rows."""

    def __init__(self, ticket: RecordTicket, first: int, rows: pl.DataFrame, lost: Lost) -> None:
        import polars as pl

        self._ticket = ticket
        self._channel = channel_of(ticket.frame)
        self._first = first
        self._rows = rows.with_columns(pl.int_range(first, first + pl.len()).alias(ROW))
        self.past, self.stored, self.refused, self.reasons = first, 0, 0, []
        self.lost = lost

    def store(self) -> None:
        """Store all rows, or as many as possible. Raises an error if none could be stored."""
        try:
            self._store(0, self._rows.height)
        except BaseException as error:
            if self.past == self._first or not _is_of_library(error):
                raise
            _tables.pop(self._ticket.table, None)

    def _store(self, start: int, stop: int) -> None:
        """Store rows from index `start` to `stop`: halve those that the table refuses until one is left."""
        rows = self._rows[start:stop]
        too_large, reasons = _find_too_large(rows, self._channel, self._first + start)
        try:
            self._reject(rows.filter(too_large), reasons, "")
            self._commit(rows.filter(~too_large), self._first + stop, len(reasons))
        except BaseException as error:
            if not self._ticket.divide or not _is_of_library(error) or _is_of_disk(error):
                raise
            _tables.pop(self._ticket.table, None)
            if len(rows) > 1:
                middle = (start + stop) // 2
                self._store(start, middle)
                self._store(middle, stop)
                return
            if self.refused >= _MOST_REJECTED:
                raise
            if reason := self._try_alone(rows, start):
                self._reject(rows, {self._first + start: reason}, " refused")
                self._commit(rows.clear(), self._first + stop, 1)
                self._note([reason])
            else:
                self.stored += 1
        else:
            self._note(list(reasons.values()))
            self.stored += len(rows) - len(reasons)
        self.past = self._first + stop

    def _try_alone(self, row: pl.DataFrame, index: int) -> str:
        """Store a row that was refused once more. Return why the table refuses it; empty if it is stored.

        The table takes a commit without rows just before. Otherwise the table is at fault, which raises an
        error: a fault that ended after the first attempt is none of the row.
        """
        self._commit(row.clear(), self._first + index)
        try:
            self._commit(row, self._first + index + 1)
        except BaseException as error:
            if not _is_of_library(error) or _is_of_disk(error):
                raise
            _tables.pop(self._ticket.table, None)
            return f"row {self._first + index}: {_summarize(error)}"
        return ""

    def _note(self, reasons: list[str]) -> None:
        self.refused += len(reasons)
        self.lost = self._count_lost(len(reasons))
        self.reasons += reasons[: _MOST_REASONS - len(self.reasons)]

    def _count_lost(self, refused: int) -> Lost:
        return self.lost._replace(unstorable=self.lost.unstorable + refused)

    def _commit(self, rows: pl.DataFrame, past: int, refused: int = 0) -> None:
        """Store rows, and that all before `past` are stored, but what is lost and `refused` more."""
        ticket = self._ticket
        stored = _to_arrow(rows, self._channel, ticket.feed, Path(ticket.run).name)
        name, lost = transaction(ticket.run, ticket.frame), self._count_lost(refused)
        numbers = {f"{name} {kind}": count for kind, count in lost._asdict().items() if count}
        _append(ticket.table, ticket.options, stored, {name: past, **numbers})

    def _reject(self, rows: pl.DataFrame, reasons: dict[int, str], suffix: str) -> None:
        """Add rows to the dataset of rejects, unless an earlier attempt did.

        `reasons` has their numbers, in order. Rejects that their own table refuses are only on disk.
        """
        ticket, stream = self._ticket, self._ticket.frame.partition(".")[0]
        if not reasons or self._channel is REJECTS:
            return
        table = f"{ticket.table.rpartition('/')[0]}/{stream}.{REJECTS.name}"
        name = transaction(ticket.run, ticket.frame) + suffix
        found = _open(table, ticket.options)
        done = _read_version(found, name)
        rejects = [
            RejectRow("row", f"{ticket.frame}, row {number}", reason, data, recv_ns)
            for (number, reason), data, recv_ns in zip(
                reasons.items(), _to_json(rows.drop(ROW)), _list_receive_times(rows), strict=True
            )
            if number >= done
        ]
        if rejects:
            stored = _to_arrow(_rejects_frame(rejects), REJECTS, ticket.feed, Path(ticket.run).name)
            _append(table, ticket.options, stored, {name: max(reasons) + 1})


def _append(uri: str, options: dict[str, str], rows: Any, versions: dict[str, int]) -> None:
    """Commit rows to a table, and the versions that transactions have reached, by name."""
    from deltalake import CommitProperties, Transaction, write_deltalake

    write_deltalake(
        _open(uri, options) or uri,
        rows,
        mode="append",
        schema_mode="merge",  # a table of an earlier version gains the columns that it lacks
        partition_by=list(PARTITION),
        storage_options=options or None,
        writer_properties=_writer_properties(),
        commit_properties=CommitProperties(
            app_transactions=[Transaction(name, version) for name, version in versions.items()]
        ),
    )


def _writer_properties() -> WriterProperties:
    """Return how files are compressed. Row numbers take two thirds of the space as differences."""
    from deltalake import ColumnProperties, WriterProperties

    numbers = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED")
    return WriterProperties(compression="ZSTD", compression_level=3, column_properties={ROW: numbers})


def _rejects_frame(rows: list[RejectRow]) -> pl.DataFrame:
    import polars as pl

    names = [column.name for column in REJECTS.columns]
    frame = pl.DataFrame(rows, names, orient="row")
    return frame.with_columns(pl.col(RECV_TS.name).cast(pl.Datetime("ns", "UTC")))


def _to_json(rows: pl.DataFrame) -> list[bytes]:
    """Return each row as JSON; times and numbers are exact."""
    import polars as pl
    import polars.selectors as cs

    shown = rows.with_columns(
        cs.datetime().cast(pl.String), cs.categorical().cast(pl.String), cs.binary().bin.encode("base64")
    )
    return shown.write_ndjson().encode().splitlines()


def _list_receive_times(rows: pl.DataFrame) -> list[int]:
    """Return the receive times in ns; of bars, which are made here, when they were made."""
    return rows[RECV_TS.name].dt.epoch("ns").to_list()


def find_recorded(ticket: RecordTicket) -> RecordReceipt:
    """Return how far the frame is recorded in the table, which is opened anew."""
    _tables.pop(ticket.table, None)
    with _translate_errors(ticket.table):
        table = _open(ticket.table, ticket.options)
        name = transaction(ticket.run, ticket.frame)
        done = _read_version(table, name)
        return RecordReceipt(done, 0, ticket.lost if done == ticket.table_past else _read_lost(table, name))


def compact(ticket: CompactTicket) -> int:
    """Join small files to large ones, and remove old replaced files; return the number of small files."""
    with _translate_errors(ticket.table):
        table = _open(ticket.table, ticket.options)
        if table is None:
            return 0
        joined = compaction.compact(table, _TARGET_BYTES, as_differences=(ROW,))
        table.create_checkpoint()
        table.vacuum(ticket.keep_hours, dry_run=False, enforce_retention_duration=False)
        return joined


def transaction(run: str, frame: str) -> str:
    """Return the transaction identifier for a frame of a run."""
    return f"{Path(run).name}/{frame}"


def _read_version(table: DeltaTable | None, name: str) -> int:
    """Return the version that a transaction has reached in a table; 0 if there is none."""
    return (table.transaction_version(name) if table else None) or 0


def _read_lost(table: DeltaTable | None, name: str) -> Lost:
    """Return what a table lacks, as its last commit of the frame says. It may take a look at all commits:
    not for each ticket.
    """
    return Lost(**{kind: _read_version(table, f"{name} {kind}") for kind in Lost._fields})


def channel_of(frame: str) -> Channel:
    """Return the channel whose rows a frame holds."""
    stream, _, name = frame.partition(".")
    return STREAMS[stream].row_channels[name]


def _open(uri: str, options: dict[str, str]) -> DeltaTable | None:
    from deltalake.exceptions import TableNotFoundError

    from mdstream.store.delta_table import locate

    try:
        if uri in _tables:
            _tables[uri].update_incremental()
        else:
            _tables[uri] = locate(uri, options)
    except TableNotFoundError:
        _tables.pop(uri, None)
    table: DeltaTable | None = _tables.get(uri)
    return table


def _reader(run: str, frame: str) -> FrameReader:
    path = str(frame_path(Path(run), frame))
    if path not in _readers:
        _readers[path] = FrameReader(Path(path))
    return _readers[path]


def _find_too_large(rows: pl.DataFrame, channel: Channel, first: int) -> tuple[pl.Series, dict[int, str]]:
    """Find rows with an integer that no table can hold.

    Return a mask of them, and the reason by number of the row in the frame; `rows` begin with `first`.
    """
    import polars as pl

    names = [c.name for c in channel.columns if c.kind is Kind.UINT and c.name in rows.columns]
    too_large = rows.select((pl.col(name) > LARGEST_INT).fill_null(value=False) for name in names)
    mask = pl.repeat(value=False, n=rows.height, eager=True)
    reasons: dict[int, str] = {}
    for name in names:
        mask |= too_large[name]
        for at in too_large[name].arg_true().to_list():
            reasons.setdefault(first + at, f"row {first + at}: {why_too_large(name, rows[name][at])}")
    return mask, dict(sorted(reasons.items()))


def _to_arrow(rows: pl.DataFrame, channel: Channel, feed: str, run: str) -> Any:
    """Return rows as the table stores them: sorted by symbol and time, partition columns first.

    Rejects that are made here have no number.
    """
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
    number = pl.col(ROW) if ROW in rows.columns else pl.lit(None, pl.Int64).alias(ROW)
    stored = rows.select(pl.lit(feed).alias("feed"), day, pl.lit(run).alias(RUN), number, *columns)
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
        if not _is_of_library(error):
            raise
        _tables.pop(table, None)
        raise StoreError(_why(table, error)) from error


def _is_of_library(error: BaseException) -> bool:
    """Return whether the Delta library or Polars may have raised `error`; a panic is not an `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _is_of_disk(error: BaseException) -> bool:
    """Return whether the disk is at fault: then no row is."""
    return bool(find_errno(error)) or _has_no_room(error)


def _has_no_room(error: BaseException) -> bool:
    text = summarize_error(error)
    return "No space left" in text or "Quota exceeded" in text


def _summarize(error: BaseException) -> str:
    """Return an error in one line."""
    return " ".join(summarize_error(error).split())[:300]


def _why(table: str, error: BaseException) -> str:
    text = summarize_error(error)
    if _has_no_room(error):
        return f"store: no room at {table}; recording resumes when there is some"
    if "://" not in table and (number := find_errno(error)):
        return f"store: {table}: {os.strerror(number)}. Recording resumes when it can be written"
    return f"store: {table}: {text[:300]}"
