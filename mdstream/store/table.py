"""The store's Delta tables: one a dataset, whose files the workers write and whose log is written here.

STORE/stocks.trades/_delta_log/…                            what is in the table
STORE/stocks.trades/feed=sip/date=2026-01-05/….parquet      sorted by symbol and time
STORE/_mdstream/…                                           the ledger and what is staged
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from mdstream.errors import StoreError
from mdstream.handoff.page_ticket import JoinReceipt
from mdstream.store.objects import plain
from mdstream.store.schema import stored_schema
from mdstream.streams.spec import Channel

_APP = "mdstream-backfill"
_PARTITION_TYPES = {"date": pa.date32(), "year": pa.int32()}


@dataclass(frozen=True, slots=True)
class NewFile:
    """A Parquet file that is to become part of a table; `path` is relative to the table's folder."""

    number: int
    path: str
    partition: Mapping[str, str]
    receipt: JoinReceipt


class Standing(NamedTuple):
    """What a table tells of itself."""

    id: str
    """Delta's; empty if there is no table."""
    version: int
    """The number of the last commit of ours."""
    files: tuple[str, ...]


class StoreTable:
    """The table of one dataset in a local store; `partitions` names the columns that part its files."""

    def __init__(self, folder: Path, channel: Channel, partitions: Sequence[str]) -> None:
        self.folder = folder
        self._parts = list(partitions)
        parts = [
            pa.field(name, pa.date32() if name == "date" else pa.int32() if name == "year" else pa.string())
            for name in self._parts
        ]
        self._schema = Schema.from_arrow(pa.schema([*parts, *stored_schema(channel)]))

    def standing(self) -> Standing:
        """How the table stands. Raises `StoreError` if it is damaged."""
        try:
            table = DeltaTable(str(self.folder))
            version = table.transaction_version(_APP) or 0
            return Standing(str(table.metadata().id), version, tuple(table.file_uris()))
        except TableNotFoundError:
            return Standing("", 0, ())
        except DeltaError as error:
            raise StoreError(f"store: {self.folder} cannot be read: {plain(error)}") from error

    def commit(self, files: Sequence[NewFile], version: int) -> None:
        """Make files part of the table, all of them or none, as commit `version`. Raises `StoreError` where
        it has not the commit before that: it was removed or replaced, and its loss would be forgotten.
        """
        if (found := self.standing().version) != version - 1:
            raise StoreError(
                f"store: {self.folder} was removed or replaced while it was filled (commit {found}, "
                f"{version - 1} expected): run the same again, and what it has lost is fetched again"
            )
        try:
            self._commit(files, version)
        except DeltaError as error:
            raise StoreError(f"store: {self.folder} cannot be written: {plain(error)}") from error

    def _commit(self, files: Sequence[NewFile], version: int) -> None:
        actions: list[Any] = [self._action(file) for file in files]
        properties = CommitProperties(app_transactions=[Transaction(_APP, version)])
        if DeltaTable.is_deltatable(str(self.folder)):
            DeltaTable(str(self.folder)).create_write_transaction(
                actions, "append", self._schema, self._parts, commit_properties=properties
            )
        else:
            create_table_with_add_actions(
                str(self.folder), self._schema, actions, "append", self._parts, commit_properties=properties
            )

    def path(self, partition: Mapping[str, str], name: str) -> str:
        """Where a file of a partition belongs, relative to the table's folder."""
        folders = (f"{part}={quote(partition[part], safe='')}" for part in self._parts)
        return "/".join((*folders, name))

    def _action(self, file: NewFile) -> AddAction:
        receipt = file.receipt
        stats = {
            "numRecords": receipt.rows,
            "minValues": {name: _told(value, 0) for name, value in receipt.first.items()},
            "maxValues": {name: _told(value, 1) for name, value in receipt.last.items()},
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


def _told(value: str | int, up: int) -> str:
    """A bound as the log tells it: times to the millisecond, the upper one rounded up."""
    if isinstance(value, str):
        return value
    millis = value // 1000 + up
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=millis)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{millis % 1000:03d}Z"
