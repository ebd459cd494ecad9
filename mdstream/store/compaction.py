"""Small files of a table, joined to large ones. Other processes may do the same at the same time."""

from __future__ import annotations

import contextlib
import posixpath
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from mdstream.store.exact_commit import commit_exactly
from mdstream.store.migration import format_stats

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, RemoveAction
    from pyarrow.fs import FileSystem

_ROWS_A_GROUP = 1 << 20


def compact(table: DeltaTable, target_bytes: int, as_differences: Sequence[str] = ()) -> int:
    """Join files of less than `target_bytes` in each partition; return how many there were.

    Integers in the columns `as_differences` are stored as differences. Rows stay in the order of the
    commits. If another process joined these files meanwhile, nothing changes, and the result is 0. Raises
    the errors of the Delta library; the table is then unchanged, too.
    """
    from deltalake.fs import DeltaStorageHandler
    from pyarrow.fs import PyFileSystem

    groups = list(_group(pa.table(table.get_add_actions()).to_pylist(), target_bytes))
    if not groups:
        return 0
    files = PyFileSystem(DeltaStorageHandler.from_table(table._table))
    whole = pa.schema(table.schema())
    apart = table.metadata().partition_columns
    schema = pa.schema([field for field in whole if field.name not in apart])
    actions: list[AddAction | RemoveAction] = []
    new: list[str] = []
    is_done = False
    try:
        for group in groups:
            path = posixpath.join(
                posixpath.dirname(group[0]["path"]), f"joined-{uuid.uuid4()}.zstd.parquet"
            )
            new.append(path)
            _write(files, group, path, schema, as_differences)
            actions += _replace(files, group, path)
        is_done = commit_exactly(table, actions, {file["path"] for group in groups for file in group})
    finally:
        if not is_done:
            for path in new:
                with contextlib.suppress(OSError):
                    files.delete_file(path)
    return is_done * sum(map(len, groups))


def _group(files: Sequence[dict[str, Any]], target_bytes: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the files to join: at least two of one partition, together of about `target_bytes` at most."""
    partitions = defaultdict[tuple[Any, ...], list[dict[str, Any]]](list)
    for file in sorted(files, key=lambda file: (file["modification_time"], file["path"])):
        if file["size_bytes"] < target_bytes:
            partitions[tuple(file["partition"].values())].append(file)
    for small in partitions.values():
        group: list[dict[str, Any]] = []
        for file in small:
            if group and sum(each["size_bytes"] for each in group) + file["size_bytes"] > target_bytes:
                if len(group) > 1:
                    yield group
                group = []
            group.append(file)
        if len(group) > 1:
            yield group


def _write(
    files: FileSystem,
    group: Sequence[dict[str, Any]],
    path: str,
    schema: pa.Schema,
    as_differences: Sequence[str],
) -> None:
    """Write the rows of a group of files to one file; columns that an old file lacks are null."""
    import pyarrow.parquet as pq

    leaves = [f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in schema]
    options = {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": [name for name in leaves if name not in as_differences],
        "column_encoding": dict.fromkeys(set(leaves).intersection(as_differences), "DELTA_BINARY_PACKED"),
    }
    with files.open_output_stream(path) as stream, pq.ParquetWriter(stream, schema, **options) as writer:
        waiting: list[pa.Table] = []
        for file in group:
            with files.open_input_file(file["path"]) as opened:
                old = pq.ParquetFile(opened)
                for number in range(old.num_row_groups):
                    rows = old.read_row_group(number)
                    waiting.append(pa.table({f.name: _column(rows, f) for f in schema}, schema))
                    if sum(table.num_rows for table in waiting) >= _ROWS_A_GROUP:
                        writer.write_table(pa.concat_tables(waiting), row_group_size=_ROWS_A_GROUP)
                        waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=_ROWS_A_GROUP)


def _column(rows: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in rows.column_names:
        return pa.nulls(rows.num_rows, field.type)
    return rows[field.name].cast(field.type)


def _replace(
    files: FileSystem, group: Sequence[dict[str, Any]], path: str
) -> Iterator[AddAction | RemoveAction]:
    """Yield what replaces a group of files by the one at `path` in the log of their table."""
    from deltalake.transaction import AddAction, RemoveAction

    partition = {name: str(value) for name, value in group[0]["partition"].items()}
    stats = {
        "numRecords": sum(file["num_records"] for file in group),
        "minValues": format_stats(_merge(group, "min", min)),
        "maxValues": format_stats(_merge(group, "max", max)),
        "nullCount": _merge(group, "null_count", sum),
    }
    now = int(time.time() * 1000)
    size = files.get_file_info(path).size
    yield AddAction(path, size, partition, now, False, orjson.dumps(stats).decode())
    for file in group:
        yield RemoveAction(file["path"], False, now, file["size_bytes"], {**partition})


def _merge(group: Sequence[dict[str, Any]], what: str, merge: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """Return a statistic of a group of files, by column, for columns of which all files have it."""
    found = [file.get(what) or {} for file in group]
    return {
        name: merge([each[name] for each in found])
        for name in found[0]
        if all(each.get(name) is not None for each in found)
    }
