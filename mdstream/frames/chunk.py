"""One chunk of a frame as arrays over its mapped file."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mdstream.frames.layout import Buffers, find_buffers, make_blank, patch_lengths
from mdstream.handoff.columns import ColumnData
from mdstream.handoff.space import create_file
from mdstream.streams.spec import Column, Kind
from mdstream.streams.storage import DTYPE

Bytes = npt.NDArray[np.uint8]

_FEW_ROWS = 256
"""For fewer rows than this, system calls cost more than page faults."""
_FEW_BITS = 8
"""For fewer bits than this, one call for each costs less than one for all."""


class Chunk:
    """A chunk with room for `rows` rows; its one writer may write them in any order.

    `views` are the columns as arrays over the map, which are read-only if `write` is false.
    """

    # Written by the frame's writer alone, like the rows themselves.
    heap_used: list[int]
    """Used items of each column's heap."""

    def __init__(
        self, path: Path, columns: Sequence[Column], start_row: int, rows: int, write: bool = True
    ) -> None:
        self.path = path
        self.start_row = start_row
        self.rows = rows
        access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
        self._file = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._file)
        self._mapping = mmap.mmap(self._file, 0, access=access)
        if not write:
            self._close()
        self.bytes: Bytes = np.frombuffer(self._mapping, np.uint8)
        """The whole file."""
        base = pa.py_buffer(memoryview(self._mapping))
        self.views = [
            ColumnView(self._mapping, column, buffers, rows)
            for column, buffers in zip(columns, find_buffers(base), strict=True)
        ]
        self.heap_used = [0] * len(columns)

    @staticmethod
    def create(path: Path, columns: Sequence[Column], rows: int, heaps: Sequence[int]) -> None:
        """Create the file of a new chunk. Raises `NoSpaceError`; no file is left if it fails."""
        hidden = path.with_suffix(".new")
        empty = make_blank(columns, rows, heaps)
        try:
            descriptor = create_file(hidden, empty.size, os.O_TRUNC)
            try:
                for offset, data in empty.pieces:
                    _put(descriptor, data, offset)
            finally:
                os.close(descriptor)
            hidden.rename(path)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise

    def resume(self, rows: int) -> None:
        """Reopen a chunk with `rows` rows for writing, even if it was sealed or half sealed."""
        nulls = [int(len(view.validity) > 0) for view in self.views]
        patch_lengths(memoryview(self._mapping), self.rows + 1, nulls)
        for index, view in enumerate(self.views):
            if view.heap is not None:
                self.heap_used[index] = int(view.values[rows])

    def room(self, data: Sequence[ColumnData], start: int, at: int) -> int:
        """Return how many rows of `data`, from `start` on, fit into the chunk from row `at` on."""
        fit = self.rows - at
        for index, (view, item) in enumerate(zip(self.views, data, strict=True)):
            if view.heap is not None:
                ends: Any = item.values
                taken = int(ends[start - 1]) if start else 0
                limit = taken + len(view.heap) - self.heap_used[index]
                fit = min(fit, int(np.searchsorted(ends, limit, side="right")) - start)
        return max(0, min(fit, len(data[0].values) - start))

    def write(self, data: Sequence[ColumnData], start: int, stop: int, at: int) -> int:
        """Copy rows `start` to `stop` of `data` to row `at`; return a bit for each column with a null."""
        nulls = 0
        for index, (view, item) in enumerate(zip(self.views, data, strict=True)):
            if view.heap is not None:
                self.heap_used[index] = view.put_heap(item, start, stop, at, self.heap_used[index])
            elif view.packed:
                _set_bits(view.values, at, np.asarray(item.values[start:stop], np.bool_))
            elif stop - start < _FEW_ROWS:
                view.values[at : at + stop - start] = item.values[start:stop]
            else:
                # Half the cost of the map, which faults at the first access of each page.
                values = np.ascontiguousarray(item.values[start:stop], view.values.dtype)
                _put(self._file, values.data, view.offset + at * values.itemsize)
            if item.mask is not None:
                missing = np.flatnonzero(~item.mask[start:stop])
                if len(missing):
                    _clear_bits(view.validity, missing + at)
                    nulls |= 1 << index
        return nulls

    def seal(self, rows: int, nulls: int) -> None:
        """Close the chunk, and make it a valid Arrow file of `rows` rows."""
        counts = [
            rows - _count_bits(view.validity, rows) if nulls >> index & 1 else 0
            for index, view in enumerate(self.views)
        ]
        patch_lengths(memoryview(self._mapping), rows, counts)
        self._close()


class ColumnView:
    """The buffers of one column as arrays over the map."""

    def __init__(self, mapping: mmap.mmap, column: Column, buffers: Buffers, rows: int) -> None:
        def array(dtype: npt.DTypeLike, count: int, offset: int) -> npt.NDArray[Any]:
            return np.frombuffer(mapping, dtype, count, offset)

        dtype = DTYPE[column.kind]
        self.packed = column.kind is Kind.BOOL
        self.offset = buffers.values
        self.validity_offset = buffers.validity
        self.heap: npt.NDArray[Any] | None = None
        self.validity: Bytes = array(
            np.uint8, (rows + 8) // 8 if buffers.validity >= 0 else 0, max(buffers.validity, 0)
        )
        if buffers.heap >= 0:
            self.values = array(np.int64, rows + 1, buffers.values)
            self.heap = array(dtype, buffers.heap_items, buffers.heap)
        elif self.packed:
            self.values = array(np.uint8, (rows + 7) // 8, buffers.values)
        else:
            self.values = array(dtype, rows, buffers.values)

    def bits(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return the values of `rows` of a packed column."""
        return np.asarray(self.values[rows >> 3] >> (rows & 7).astype(np.uint8) & 1, np.bool_)

    def present(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return for each of `rows` whether it has a value."""
        bits = self.validity[rows >> 3] >> (rows & 7).astype(np.uint8)
        return np.asarray(bits & 1, np.bool_)

    def mark(self, rows: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_] | None) -> None:
        """Set for each of `rows` whether it has a value; all have one if `mask` is None."""
        wanted = np.ones(len(rows), np.bool_) if mask is None else mask
        changed = self.present(rows) != wanted
        if changed.any():
            _set_bits_at(self.validity, rows[changed & wanted])
            _clear_bits(self.validity, rows[changed & ~wanted])

    def put_heap(self, item: ColumnData, start: int, stop: int, at: int, used: int) -> int:
        """Append the heap items of rows `start` to `stop`, and their ends; return the used items."""
        assert self.heap is not None
        assert item.heap is not None
        ends: Any = item.values
        first = int(ends[start - 1]) if start else 0
        size = int(ends[stop - 1]) - first
        self.heap[used : used + size] = item.heap[first : first + size]
        self.values[at + 1 : at + 1 + stop - start] = ends[start:stop] + (used - first)
        return used + size


def _put(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` to an open file."""
    rest = memoryview(data).cast("B")
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _set_bits(bits: Bytes, at: int, values: npt.NDArray[np.bool_]) -> None:
    _set_bits_at(bits, np.flatnonzero(values) + at)


def _set_bits_at(bits: Bytes, rows: npt.NDArray[np.intp]) -> None:
    np.bitwise_or.at(bits, rows >> 3, (1 << (rows & 7)).astype(np.uint8))


def _clear_bits(bits: Bytes, rows: npt.NDArray[np.intp]) -> None:
    if len(rows) <= _FEW_BITS:
        for row in rows.tolist():
            bits[row >> 3] &= 0xFF ^ 1 << (row & 7)
        return
    np.bitwise_and.at(bits, rows >> 3, ~(1 << (rows & 7)).astype(np.uint8))


def _count_bits(bits: Bytes, rows: int) -> int:
    return int(np.unpackbits(bits, count=rows, bitorder="little").sum())
