"""Delta tables of the store, one per dataset. Workers write their files; this module writes their logs.

STORE/stocks.trades/_delta_log/…                            what is in the table
STORE/stocks.trades/feed=sip/date=2026-01-05/….parquet      sorted by symbol and time
STORE/_mdstream/…                                           the ledger and the staged pages
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, WriterProperties
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from mdstream.errors import StoreError
from mdstream.handoff.page_ticket import JoinReceipt
from mdstream.store.migration import add_new_columns, migrate
from mdstream.store.objects import summarize_error
from mdstream.store.schema import NS_SUFFIX, format_time, stored_schema
from mdstream.streams.spec import Channel

log = logging.getLogger(__name__)

_APP = "mdstream-backfill"
_PARTITION_TYPES = {"date": pa.date32(), "year": pa.int32()}


@dataclass(frozen=True, slots=True)
class NewFile:
    """A Parquet file that is to become part of a table; `path` is relative to the table's folder."""

    path: str
    partition: Mapping[str, str]
    receipt: JoinReceipt


class TableState(NamedTuple):
    """State of a table, from its log."""

    id: str
    """Delta's id of the table; empty if there is no table."""
    version: int
    """Number of the last commit by a backfill; 0 if there is none."""
    files: tuple[str, ...]


class StoreTable:
    """The table of one dataset in a local store; `partitions` names its partition columns."""

    def __init__(self, folder: Path, channel: Channel, partitions: Sequence[str]) -> None:
        self.folder = folder
        self._by = list(partitions)
        self._channel = channel
        fields = [pa.field(name, _PARTITION_TYPES.get(name, pa.string())) for name in partitions]
        self._schema = Schema.from_arrow(pa.schema([*fields, *stored_schema(channel)]))

    def read_state(self) -> TableState:
        """Return the state of the table. Raises `StoreError` if it cannot be read."""
        try:
            table = DeltaTable(str(self.folder))
            version = table.transaction_version(_APP) or 0
            return TableState(str(table.metadata().id), version, tuple(table.file_uris()))
        except TableNotFoundError:
            return TableState("", 0, ())
        except DeltaError as error:
            raise StoreError(f"store: {self.folder} cannot be read: {summarize_error(error)}") from error

    def commit(self, files: Sequence[NewFile], version: int) -> None:
        """Add all `files` to the table, or none, as commit `version`.

        Raises `StoreError` if commit `version - 1` is not the last one: the table was removed or replaced,
        and its loss would go unnoticed.
        """
        state = self.read_state()
        if state.version != version - 1:
            raise StoreError(
                f"store: {self.folder} was removed or replaced during the backfill (last commit "
                f"{state.version}, {version - 1} expected); run the same again to fetch the lost rows"
            )
        folder = str(self.folder)
        actions: list[Any] = [self._add_action(file) for file in files]
        properties = CommitProperties(app_transactions=[Transaction(_APP, version)])
        try:
            if state.id:
                table = DeltaTable(folder)
                if count := migrate(table, self._channel):
                    log.info("store: %s: wrote %d files again: sizes are fractions now", folder, count)
                add_new_columns(table, self._schema)
                table.create_write_transaction(
                    actions, "append", self._schema, self._by, commit_properties=properties
                )
            else:
                create_table_with_add_actions(
                    folder, self._schema, actions, "append", self._by, commit_properties=properties
                )
        except DeltaError as error:
            raise StoreError(f"store: {self.folder} cannot be written: {summarize_error(error)}") from error

    def delete(self, partition: Mapping[str, str], shards: Sequence[tuple[str, int, int]]) -> None:
        """Remove the rows of a partition that belong to `shards`: symbol, begin and end in ns since 1970.

        The symbol `*` stands for all. Raises `StoreError` if the table cannot be read or written.
        """
        if not self.read_state().id:
            return
        by_span: dict[tuple[int, int], list[str]] = {}
        for symbol, *span in shards:
            by_span.setdefault((span[0], span[1]), []).append(symbol)
        inside = " OR ".join(
            _format_rows(self._channel.time, span, names) for span, names in by_span.items()
        )
        # An integer partition is compared as one; the others are texts or dates.
        where = [
            f"{name} = {value if name == 'year' else _quote_text(value)}"
            for name, value in partition.items()
        ]
        try:
            DeltaTable(str(self.folder)).delete(
                " AND ".join([*where, f"({inside})"]),
                writer_properties=WriterProperties(compression="ZSTD"),
            )
        except DeltaError as error:
            raise StoreError(f"store: {self.folder} cannot be written: {summarize_error(error)}") from error

    def path(self, partition: Mapping[str, str], name: str) -> str:
        """Return where a file of a partition belongs, relative to the table's folder."""
        folders = (f"{part}={quote(partition[part], safe='')}" for part in self._by)
        return "/".join((*folders, name))

    def _add_action(self, file: NewFile) -> AddAction:
        receipt = file.receipt
        stats = {
            "numRecords": receipt.rows,
            "minValues": {name: _format_bound(value, 0) for name, value in receipt.first.items()},
            "maxValues": {name: _format_bound(value, 1) for name, value in receipt.last.items()},
            "nullCount": dict.fromkeys(receipt.first, 0),
        }
        return AddAction(
            file.path,
            receipt.bytes,
            dict(file.partition),
            int(time.time() * 1000),
            True,
            orjson.dumps(stats).decode(),
        )


def _format_rows(time: str, span: tuple[int, int], symbols: Sequence[str]) -> str:
    """Return an SQL condition for the rows of symbols in a half-open range of time."""
    bounds = [
        f"({time} {sign} {_format_micros(micro)} OR ({time} = {_format_micros(micro)} "
        f"AND {time}{NS_SUFFIX} {sign}{'=' * (sign == '>')} {beyond}))"
        for sign, (micro, beyond) in zip("><", (divmod(ns, 1000) for ns in span), strict=True)
    ]
    if "*" not in symbols:
        bounds.insert(0, f"symbol IN ({', '.join(map(_quote_text, symbols))})")
    return f"({' AND '.join(bounds)})"


def _format_micros(micro: int) -> str:
    return f"arrow_cast({micro}, 'Timestamp(Microsecond, Some(\"UTC\"))')"


def _quote_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _format_bound(value: str | int, up: int) -> str:
    """Return a bound as Delta's log writes it: times in milliseconds, an upper one rounded up."""
    if isinstance(value, str):
        return value
    return format_time(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=value // 1000 + up))
