"""Layout of a chunk: an Arrow IPC file of one record batch, created at full size and filled in place.

pyarrow writes the empty file, so its layout is valid. The offsets of the buffers in the file say where each
column is. A nullable column is created with one null, in a slot after the last usable row. Without any
null, pyarrow writes no bitmap; with nulls alone, readers take the whole column for null.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mdstream.streams.spec import CODED, VARIABLE, Column, Kind
from mdstream.streams.storage import DTYPE

_TYPES: dict[Kind, pa.DataType] = {
    Kind.SYMBOL: pa.uint32(),
    Kind.TIME: pa.timestamp("ns", "UTC"),
    Kind.FLOAT: pa.float64(),
    Kind.INT: pa.int64(),
    Kind.UINT: pa.uint64(),
    Kind.BOOL: pa.bool_(),
    Kind.CODE: pa.uint16(),
    Kind.CONDITIONS: pa.uint16(),
    Kind.TEXT: pa.large_string(),
    Kind.JSON: pa.large_string(),
    Kind.SYMBOLS: pa.large_list(pa.field("item", pa.uint32(), nullable=False)),
    Kind.BYTES: pa.large_binary(),
}

_BLOCK = 512

HEAP_PER_ROW: dict[Kind, float] = {Kind.TEXT: 96.0, Kind.JSON: 256.0, Kind.SYMBOLS: 4.0, Kind.BYTES: 256.0}
"""Heap items for each row of a frame's first chunk; later chunks get what the one before needed."""


def arrow_schema(columns: Sequence[Column], **facts: str) -> pa.Schema:
    """Return the Arrow schema of a frame.

    Metadata of a field are the column's kind and dictionary. Metadata of the schema are `facts`: `keyed`
    for a keyed frame, and `levels`, the order-book levels in a row.
    """
    fields = []
    for column in columns:
        metadata = {"kind": column.kind.value}
        if column.kind in CODED:
            metadata["dictionary"] = column.dictionary
        fields.append(pa.field(column.name, _TYPES[column.kind], column.nullable, metadata))
    return pa.schema(fields, facts or None)


def serialize_schema(columns: Sequence[Column], **facts: str) -> bytes:
    """Return the contents of a frame's file `schema`."""
    data: bytes = arrow_schema(columns, **facts).serialize().to_pybytes()
    return data


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """Return the columns of a frame by its Arrow schema, with what their storage needs."""
    return tuple(
        Column(field.name, kind_of(field), required=not field.nullable, dictionary=dictionary_of(field))
        for field in schema
    )


def kind_of(field: pa.Field) -> Kind:
    """Return the kind of a field's column."""
    return Kind(field.metadata[b"kind"].decode())


def dictionary_of(field: pa.Field) -> str:
    """Return the dictionary of a field's codes; empty if its values are not codes."""
    return field.metadata.get(b"dictionary", b"").decode()  # type: ignore[no-any-return]


def read_schema(folder: Path) -> pa.Schema:
    """Return the schema of the frame in `folder`."""
    return pa.ipc.read_schema(pa.py_buffer((folder / "schema").read_bytes()))


def levels_in(schema: pa.Schema) -> int:
    """Return how many order-book levels a row of a keyed frame has."""
    return int((schema.metadata or {}).get(b"levels", b"0"))


def is_keyed(schema: pa.Schema) -> bool:
    """Whether a frame is keyed: one row per symbol, which changes in place."""
    return b"keyed" in (schema.metadata or {})


def row_bytes(columns: Sequence[Column], heap_per_row: Sequence[float]) -> int:
    """Return the average bytes of a row; `heap_per_row` has the heap items of each variable column."""
    total, heaps = 0.0, iter(heap_per_row)
    for column in columns:
        width = DTYPE[column.kind].itemsize
        if column.kind in VARIABLE:
            total += 8 + next(heaps) * width
        else:
            total += 1 / 8 if column.kind is Kind.BOOL else width
        total += column.nullable / 8
    return int(total) + 1


@dataclass(frozen=True, slots=True)
class Buffers:
    """Offsets of one column's buffers in a chunk's file; -1 for a buffer that it does not have."""

    validity: int
    values: int
    heap: int
    heap_items: int


class Blank(NamedTuple):
    """The file of an empty chunk: its size, and its non-zero pieces by offset."""

    size: int
    pieces: tuple[tuple[int, bytes], ...]


def make_blank(columns: Sequence[Column], rows: int, heaps: Sequence[int]) -> Blank:
    """Return the file of a chunk with room for `rows` rows and for `heaps` items in each heap."""
    return _make_blank(serialize_schema(columns), rows, tuple(heaps))


@lru_cache(maxsize=16)
def _make_blank(schema: bytes, rows: int, heaps: tuple[int, ...]) -> Blank:
    """Cached, because chunks of a frame are mostly identical."""
    sink = pa.BufferOutputStream()
    _write_empty(sink, pa.ipc.read_schema(pa.py_buffer(schema)), rows, heaps)
    data = np.frombuffer(sink.getvalue(), np.uint8)
    words = data[: len(data) // 8 * 8].view(np.uint64)  # the rest is in the last block
    used = np.flatnonzero(np.maximum.reduceat(words, np.arange(0, len(words), _BLOCK // 8)))
    used = np.union1d(used, (len(data) - 1) // _BLOCK)
    gaps = np.flatnonzero(np.diff(used) > 1)
    pieces = []
    for first, last in zip(used[[0, *gaps + 1]], used[[*gaps, -1]], strict=True):
        start, stop = int(first) * _BLOCK, (int(last) + 1) * _BLOCK
        pieces.append((start, data[start:stop].tobytes()))
    return Blank(len(data), tuple(pieces))


def _write_empty(sink: pa.NativeFile, schema: pa.Schema, rows: int, heaps: Sequence[int]) -> None:
    """Write an Arrow file of `rows` usable rows to `sink`; all of them are present and zero."""
    slots = rows + 1
    bits = np.full((slots + 7) // 8, 0xFF, np.uint8)
    bits[rows >> 3] &= ~np.uint8(1 << (rows & 7))
    validity = pa.py_buffer(bits)
    sizes = iter(heaps)
    arrays = []
    for field in schema:
        nulls = int(field.nullable)
        head = validity if field.nullable else None
        if _has_bytes(field.type):
            size = next(sizes)
            buffers = [head, _ends(slots, size), _zeros(size)]
            arrays.append(pa.Array.from_buffers(field.type, slots, buffers, nulls))
        elif pa.types.is_large_list(field.type):
            size = next(sizes)
            item = pa.Array.from_buffers(pa.uint32(), size, [None, _zeros(size * 4)], 0)
            buffers = [head, _ends(slots, size)]
            arrays.append(pa.Array.from_buffers(field.type, slots, buffers, nulls, children=[item]))
        else:
            buffers = [head, _zeros(-(-slots * field.type.bit_width // 8))]
            arrays.append(pa.Array.from_buffers(field.type, slots, buffers, nulls))
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _has_bytes(kind: pa.DataType) -> bool:
    """Return whether the heap of a column of this type has bytes."""
    return bool(pa.types.is_large_string(kind) or pa.types.is_large_binary(kind))


def _ends(slots: int, size: int) -> pa.Buffer:
    """Return the offsets of empty rows.

    The slot after the last row has the whole heap: pyarrow writes a heap only as far as offsets reach.
    """
    ends = np.zeros(slots + 1, np.int64)
    ends[slots] = size
    return pa.py_buffer(ends)


def _zeros(size: int) -> pa.Buffer:
    return pa.py_buffer(np.zeros(size, np.uint8))


def find_buffers(base: pa.Buffer) -> list[Buffers]:
    """Return where the buffers of each column are in the chunk with the file `base`.

    It uses only values that never change. Sealing a chunk changes lengths and null counts one by one, and
    pyarrow refuses a half-sealed batch. A reader may open one, and a writer may be killed at that moment.
    """
    file = memoryview(base)
    batch, body = _record_batch(file)
    at = _vector(file, batch, 2)
    places = struct.iter_unpack("<qq", file[at : at + (body - at) // 16 * 16])

    def place() -> tuple[int, int]:
        """Return the next buffer's offset in the file, and its size."""
        offset, size = next(places)
        return (body + offset if size else -1), size

    found = []
    for field in pa.ipc.open_file(base).schema:
        validity, values = place()[0], place()[0]
        heap, size = -1, 0
        if pa.types.is_large_list(field.type):
            place()  # items have no nulls
        if _has_bytes(field.type) or pa.types.is_large_list(field.type):
            heap, size = place()
        found.append(Buffers(validity, values, heap, size // DTYPE[kind_of(field)].itemsize))
    return found


def patch_lengths(file: memoryview, rows: int, nulls: Sequence[int]) -> None:
    """Write the true counts of rows and nulls into a finished chunk, for readers that do not know heads.

    An Arrow IPC file has a magic number, the schema message, and the record batch message. The last is a
    flatbuffer whose header table has `length` and a vector of nodes (length, null count).
    """
    batch, _ = _record_batch(file)
    struct.pack_into("<q", file, _field(file, batch, 0), rows)
    nodes = _vector(file, batch, 1)
    schema = pa.ipc.open_file(pa.py_buffer(file)).schema
    for field, count in zip(schema, nulls, strict=True):
        struct.pack_into("<qq", file, nodes, rows, count)
        nodes += 16
        if pa.types.is_large_list(field.type):
            nodes += 16  # the items are as many as the heap has room for


def _record_batch(file: memoryview) -> tuple[int, int]:
    """Return the offsets of the record batch table (the header of the second message) and of its body."""
    at = 8
    for _ in range(2):
        size = struct.unpack_from("<i", file, at + 4)[0]
        message, at = at + 8, at + 8 + size
    root = message + struct.unpack_from("<I", file, message)[0]
    header = _field(file, root, 2)
    table: int = header + struct.unpack_from("<I", file, header)[0]
    return table, at


def _vector(file: memoryview, table: int, index: int) -> int:
    """Return the offset of the first item of a vector, which is field `index` of a flatbuffer table."""
    at = _field(file, table, index)
    first: int = at + struct.unpack_from("<I", file, at)[0] + 4
    return first


def _field(file: memoryview, table: int, index: int) -> int:
    """Return the offset of field `index` of a flatbuffer table."""
    vtable = table - struct.unpack_from("<i", file, table)[0]
    offset: int = struct.unpack_from("<H", file, vtable + 4 + 2 * index)[0]
    if not offset:
        raise ValueError(f"the record batch has no field {index}")
    return table + offset
