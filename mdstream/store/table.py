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
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
from deltalake import CommitProperties, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from mdstream.errors import StoreError
from mdstream.handoff.page_ticket import JoinReceipt
from mdstream.store.delta_table import locate
from mdstream.store.migration import add_new_columns, migrate
from mdstream.store.objects import summarize_error
from mdstream.store.replacement import OldRows, remove_leftovers, replace_rows
from mdstream.store.schema import format_stats, stored_schema
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
            table = locate(str(self.folder))
            version = table.transaction_version(_APP) or 0
            return TableState(str(table.metadata().id), version, tuple(table.file_uris()))
        except TableNotFoundError:
            return TableState("", 0, ())
        except DeltaError as error:
            raise StoreError(f"store: {self.folder} cannot be read: {summarize_error(error)}") from error

    def commit(self, files: Sequence[NewFile], version: int, old: Sequence[OldRows] = ()) -> None:
        """Add all `files` to the table and remove the `old` rows, in one commit with the number `version`.

        So a reader, and the next run after a kill, sees the old rows or the new ones. What goes before
        (new columns, a new type of sizes) is in commits of its own, which change no row.

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
                table = locate(folder)
                if count := migrate(table, self._channel):
                    log.info("store: %s: wrote %d files again: sizes are fractions now", folder, count)
                add_new_columns(table, self._schema)
                actions += replace_rows(table, self.folder, self._channel.time, old, _prefix(version))
                table.create_write_transaction(
                    actions, "append", self._schema, self._by, commit_properties=properties
                )
            else:
                create_table_with_add_actions(
                    folder, self._schema, actions, "append", self._by, commit_properties=properties
                )
        except (DeltaError, FileNotFoundError, pa.ArrowInvalid) as error:
            raise StoreError(f"store: {self.folder} cannot be written: {summarize_error(error)}") from error

    def remove(self, paths: Sequence[str], version: int | None) -> None:
        """Remove the files of a commit that was not made; `version` is its number if it was begun."""
        for path in paths:
            (self.folder / path).unlink(missing_ok=True)
        if version is not None:
            remove_leftovers(self.folder, paths, _prefix(version))

    def path(self, partition: Mapping[str, str], name: str) -> str:
        """Return where a file of a partition belongs, relative to the table's folder."""
        folders = (f"{part}={quote(partition[part], safe='')}" for part in self._by)
        return "/".join((*folders, name))

    def _add_action(self, file: NewFile) -> AddAction:
        receipt = file.receipt
        return AddAction(
            file.path,
            receipt.bytes,
            dict(file.partition),
            int(time.time() * 1000),
            True,
            format_stats(receipt.rows, receipt.first, receipt.last),
        )


def _prefix(version: int) -> str:
    """Return how the names of files begin that have what commit `version` keeps of files it removes."""
    return f"kept-{version}-"
