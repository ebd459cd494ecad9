"""What a chunk looks like: an Arrow IPC file of one record batch, made at full size and then filled.

pyarrow writes the file, so its layout is right by construction; the addresses of its buffers inside
the map say where each column goes. A column that may hold nulls is created with one null, in a slot
behind the last usable row: a batch created without any would be written without bitmaps, and one
of nothing but nulls would be read as all null for ever.
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
}

_BLOCK = 512

HEAP_PER_ROW: dict[Kind, float] = {Kind.TEXT: 96.0, Kind.JSON: 256.0, Kind.SYMBOLS: 4.0}
"""Heap items that a frame's first chunk reserves for each row; later chunks go by what was used."""


def arrow_schema(columns: Sequence[Column], **facts: str) -> pa.Schema:
    """The Arrow schema of a frame; field metadata name each column's kind and dictionary, the schema's
    hold `facts`: whether it is a keyed frame (`frames.keyed_frame`), and what its rows are.
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
    """The columns behind an Arrow schema, as far as their storage goes."""
    return tuple(
        Column(field.name, kind_of(field), required=not field.nullable, dictionary=dictionary_of(field))
        for field in schema
    )


def kind_of(field: pa.Field) -> Kind:
    """Return the kind of the column behind a field of a frame's schema."""
    return Kind(field.metadata[b"kind"].decode())


def dictionary_of(field: pa.Field) -> str:
    """Return the dictionary that holds a field's texts; empty if its values are not codes."""
    return field.metadata.get(b"dictionary", b"").decode()  # type: ignore[no-any-return]


def read_schema(folder: Path) -> pa.Schema:
    """The schema of the frame in `folder`."""
    return pa.ipc.read_schema(pa.py_buffer((folder / "schema").read_bytes()))


def levels_in(schema: pa.Schema) -> int:
    """Return how many levels of an order book a row of a keyed frame has; 0 if it has none."""
    return int((schema.metadata or {}).get(b"levels", b"0"))


def is_keyed(schema: pa.Schema) -> bool:
    """Whether a frame is keyed: one row per symbol, which changes in place."""
    return b"keyed" in (schema.metadata or {})


def row_bytes(columns: Sequence[Column], heap_per_row: Sequence[float]) -> int:
    """Bytes a row takes on average; `heap_per_row` has the heap items of each variable column."""
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
    """Offsets within a chunk's file of one column's buffers; -1 for what it does not have."""

    validity: int
    values: int
    heap: int
    heap_items: int


class Blank(NamedTuple):
    """The file of an empty chunk: how large it is, and what in it is not zero, by offset."""

    size: int
    pieces: tuple[tuple[int, bytes], ...]


def blank(columns: Sequence[Column], rows: int, heaps: Sequence[int]) -> Blank:
    """The file of a chunk with room for `rows` rows, and so many items in each heap."""
    return _blank(serialize_schema(columns), rows, tuple(heaps))


@lru_cache(maxsize=16)
def _blank(schema: bytes, rows: int, heaps: tuple[int, ...]) -> Blank:
    """Cached: chunks of a frame are mostly identical, and a new one then costs what its memory costs."""
    sink = pa.BufferOutputStream()
    _write_empty(sink, pa.ipc.read_schema(pa.py_buffer(schema)), rows, heaps)
    data = np.frombuffer(sink.getvalue(), np.uint8)
    words = data[: len(data) // 8 * 8].view(np.uint64)  # what is left is in the last block
    used = np.flatnonzero(np.maximum.reduceat(words, np.arange(0, len(words), _BLOCK // 8)))
    used = np.union1d(used, (len(data) - 1) // _BLOCK)
    gaps = np.flatnonzero(np.diff(used) > 1)
    pieces = []
    for first, last in zip(used[[0, *gaps + 1]], used[[*gaps, -1]], strict=True):
        start, stop = int(first) * _BLOCK, (int(last) + 1) * _BLOCK
        pieces.append((start, data[start:stop].tobytes()))
    return Blank(len(data), tuple(pieces))


def _write_empty(sink: pa.NativeFile, schema: pa.Schema, rows: int, heaps: Sequence[int]) -> None:
    """Write an Arrow file of `rows` usable rows, all slots valid and zero, to `sink`."""
    slots = rows + 1
    bits = np.full((slots + 7) // 8, 0xFF, np.uint8)
    bits[rows >> 3] &= ~np.uint8(1 << (rows & 7))
    validity = pa.py_buffer(bits)
    sizes = iter(heaps)
    arrays = []
    for field in schema:
        nulls = int(field.nullable)
        head = validity if field.nullable else None
        if pa.types.is_large_string(field.type):
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


def _ends(slots: int, size: int) -> pa.Buffer:
    """Offsets of empty rows. The slot behind the last row owns the whole heap: pyarrow writes no
    more of a heap than its offsets reach.
    """
    ends = np.zeros(slots + 1, np.int64)
    ends[slots] = size
    return pa.py_buffer(ends)


def _zeros(size: int) -> pa.Buffer:
    return pa.py_buffer(np.zeros(size, np.uint8))


def find_buffers(base: pa.Buffer) -> list[Buffers]:
    """Where the buffers of each column lie in the chunk whose whole file is `base`.

    By what never changes. Lengths and null counts do, one after another, when the chunk is sealed: readers
    may open it meanwhile, and the writer be killed in between. pyarrow refuses a batch that is half sealed.
    """
    file = memoryview(base)
    batch, body = _record_batch(file)
    at = _vector(file, batch, 2)
    places = struct.iter_unpack("<qq", file[at : at + (body - at) // 16 * 16])

    def place() -> tuple[int, int]:
        """Offset within the file, and bytes, of the next buffer."""
        offset, size = next(places)
        return (body + offset if size else -1), size

    found = []
    for field in pa.ipc.open_file(base).schema:
        validity, values = place()[0], place()[0]
        heap, size = -1, 0
        if pa.types.is_large_list(field.type):
            place()  # items have no nulls
        if pa.types.is_large_string(field.type) or pa.types.is_large_list(field.type):
            heap, size = place()
        found.append(Buffers(validity, values, heap, size // DTYPE[kind_of(field)].itemsize))
    return found


def patch_lengths(file: memoryview, rows: int, nulls: Sequence[int]) -> None:
    """Write the true row and null counts into a finished chunk, for readers that know no head.

    Arrow IPC file: magic, schema message, then the record batch message, a flatbuffer whose
    header table holds `length` and a vector of (length, null count) nodes.
    """
    batch, _ = _record_batch(file)
    struct.pack_into("<q", file, _field(file, batch, 0), rows)
    nodes = _vector(file, batch, 1)
    schema = pa.ipc.open_file(pa.py_buffer(file)).schema
    for field, count in zip(schema, nulls, strict=True):
        struct.pack_into("<qq", file, nodes, rows, count)
        nodes += 16
        if pa.types.is_large_list(field.type):
            nodes += 16  # the items keep the length of their heap


def _record_batch(file: memoryview) -> tuple[int, int]:
    """Offsets of the record batch table, the header of the second message in the file, and of its body."""
    at = 8
    for _ in range(2):
        size = struct.unpack_from("<i", file, at + 4)[0]
        message, at = at + 8, at + 8 + size
    root = message + struct.unpack_from("<I", file, message)[0]
    header = _field(file, root, 2)
    table: int = header + struct.unpack_from("<I", file, header)[0]
    return table, at


def _vector(file: memoryview, table: int, index: int) -> int:
    """Offset of the first item of the vector that field `index` of a flatbuffer table is."""
    at = _field(file, table, index)
    first: int = at + struct.unpack_from("<I", file, at)[0] + 4
    return first


def _field(file: memoryview, table: int, index: int) -> int:
    """Offset of field `index` of a flatbuffer table."""
    vtable = table - struct.unpack_from("<i", file, table)[0]
    offset: int = struct.unpack_from("<H", file, vtable + 4 + 2 * index)[0]
    if not offset:
        raise ValueError(f"record batch without field {index}")
    return table + offset
