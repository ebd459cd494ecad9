"""Tables of earlier versions, brought to the columns of this one.

Up to version 0.2, sizes and volumes of stocks and options were whole numbers (Delta `long`). Now they are
fractions (`double`) everywhere. Readers convert what they read, so an old table stays readable as it is.
Before the first row is added to it, its files are written again with the new type, in one commit. The table
has either the old files or the new ones. No row is lost: a size below 2**53 is the same number as a double.
The old files stay until the table is vacuumed.
"""

from __future__ import annotations

import contextlib
import posixpath
import time
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from mdstream.store.exact_commit import commit_exactly
from mdstream.store.schema import find_widened, format_time

if TYPE_CHECKING:
    from deltalake import DeltaTable, Schema
    from deltalake.transaction import AddAction
    from pyarrow.fs import FileSystem

    from mdstream.streams.spec import Channel


def migrate(table: DeltaTable, channel: Channel) -> int:
    """Write a table's files again if it has whole numbers where `channel` has fractions.

    Return the number of files written. Raises the errors of the Delta library; the table is then unchanged.
    """
    from deltalake import Schema
    from deltalake.exceptions import CommitFailedError
    from deltalake.fs import DeltaStorageHandler
    from pyarrow.fs import PyFileSystem

    stored = pa.schema(table.schema())
    columns = find_widened(channel, [field.name for field in stored if pa.types.is_integer(field.type)])
    if not columns:
        return 0
    widened = pa.schema(
        [field.with_type(pa.float64()) if field.name in columns else field for field in stored]
    )
    files = PyFileSystem(DeltaStorageHandler.from_table(table._table))
    before = pa.table(table.get_add_actions()).to_pylist()
    actions = [_write_again(files, each, columns) for each in before]
    old = {file["path"] for file in before}
    if not commit_exactly(table, actions, old, mode="overwrite", schema=Schema.from_arrow(widened)):
        for action in actions:
            with contextlib.suppress(OSError):
                files.delete_file(action.path)
        raise CommitFailedError("another process changed the table while it was written again; try again")
    return len(actions)


def add_new_columns(table: DeltaTable, schema: Schema) -> None:
    """Add the columns of `schema` that a table lacks; rows that are there have null in them."""
    known = {field.name for field in table.schema().fields}
    if new := [field for field in schema.fields if field.name not in known]:
        table.alter.add_columns(new)


def _write_again(files: FileSystem, file: dict[str, Any], columns: Iterable[str]) -> AddAction:
    """Write one file of a table again, with fractions in `columns`, and return what adds it to the log."""
    import pyarrow.parquet as pq
    from deltalake.transaction import AddAction

    path = posixpath.join(posixpath.dirname(file["path"]), f"migrated-{uuid.uuid4()}.zstd.parquet")
    with files.open_input_file(file["path"]) as opened:
        old = pq.ParquetFile(opened)
        schema = old.schema_arrow
        for name in columns:
            if (at := schema.get_field_index(name)) >= 0:
                schema = schema.set(at, schema.field(at).with_type(pa.float64()))
        with (
            files.open_output_stream(path) as stream,
            pq.ParquetWriter(stream, schema, compression="zstd", compression_level=3) as writer,
        ):
            for group in range(old.num_row_groups):
                writer.write_table(old.read_row_group(group).cast(schema), row_group_size=1 << 20)
    partition = {name: str(value) for name, value in file["partition"].items()}
    stats = {
        "numRecords": file["num_records"],
        "minValues": format_stats(file["min"]),
        "maxValues": format_stats(file["max"]),
        "nullCount": format_stats(file["null_count"]),
    }
    size = files.get_file_info(path).size
    return AddAction(path, size, partition, int(time.time() * 1000), True, orjson.dumps(stats).decode())


def format_stats(values: dict[str, Any]) -> dict[str, Any]:
    """Return statistics of a file as Delta's log writes them, without those that are unknown."""
    return {
        name: format_time(value) if isinstance(value, datetime) else value
        for name, value in values.items()
        if value is not None
    }
