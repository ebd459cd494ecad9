"""A slab: a shared-memory file of payloads, with room for the columns decoded from them.

    ┌────────┬──────────────────┬──────────────────────────┬──────────────────────────────┐
    │ header │ table of entries │ payloads, back to back   │ result: columns, partials    │
    └────────┴──────────────────┴──────────────────────────┴──────────────────────────────┘
      feed      feed (+ counts     feed                       worker
                by the worker)

The feed fills the first three, a worker the last. The hand-off itself copies and pickles nothing. A slab
describes itself, so the successor of a killed feed finds the uncommitted batches.
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import IntEnum
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mdstream.handoff.columns import ResultArea
from mdstream.handoff.compression import Compression
from mdstream.handoff.space import create_file

HEADER_BYTES = 64
RESULT_SUFFIX = ".result"
"""Suffix of the file for a result that is too large for its slab."""
_RESULT_FACTOR = 2
_RESULT_SPARE = 8 * 1024 * 1024


def _result_bytes(capacity: int) -> int:
    """Return the bytes for results: twice those for payloads, but at most 8 MiB more.

    A larger result, mostly of order books, goes to a file beside the slab.
    """
    return min(_RESULT_FACTOR * capacity, capacity + _RESULT_SPARE)


def _whole_lines(capacity: int) -> int:
    return -(-capacity // 64) * 64


def _entries(capacity: int) -> int:
    return max(64, capacity // _PAYLOAD_BYTES_PER_ENTRY)


def file_bytes(capacity: int) -> int:
    """Return how many bytes a slab for `capacity` payload bytes takes."""
    capacity = _whole_lines(capacity)
    table = _entries(capacity) * ENTRY.itemsize
    return HEADER_BYTES + table + capacity + _result_bytes(capacity)


ENTRY = np.dtype(
    [
        ("offset", "<u8"),
        ("length", "<u4"),
        ("kind", "<u2"),
        ("compression", "<u2"),
        ("recv_ns", "<i8"),
        ("messages", "<u4"),
        ("_padding", "<u4"),
    ]
)
"""One payload: place, kind, compression, receive time; a worker adds the number of its messages."""

_HEADER = struct.Struct("=8sQQQQ")  # magic, capacity, entries, sequence, state
SEQUENCE_AT, STATE_AT = 24, 32
"""Where sequence and state are in the header."""
_ENTRY = struct.Struct("=QIHHqI4x")
_MAGIC = b"mdslab01"
_PAYLOAD_BYTES_PER_ENTRY = 96
"""Bytes of payloads for each entry of the table. If payloads are smaller, the table is full first."""


class SlabState(IntEnum):
    FREE = 0
    FILLING = 1
    SEALED = 2


class Slab:
    """One slab, mapped into this process."""

    # Written only by the feed, while it fills the slab.
    used: int
    """Bytes of payloads."""
    count: int
    """Number of payloads."""
    _decompressed: int
    """Bytes of the decompressed payloads, bounded so that their results fit."""
    # In shared memory. The feed writes header and payloads. The worker that has the ticket writes the
    # result area and the counts of messages in the table.
    table: npt.NDArray[np.void]
    """An `ENTRY` for each payload."""

    def __init__(self, path: Path, mapping: mmap.mmap, capacity: int, entries: int) -> None:
        self.path = path
        self.capacity = capacity
        self.used = 0
        self.count = 0
        self._decompressed = 0
        self._mapping = mapping
        self._max_entries = entries
        self.data_offset = HEADER_BYTES + entries * ENTRY.itemsize
        """Offset of `data` in the slab."""
        self.result_offset = self.data_offset + capacity
        self.view = memoryview(mapping)
        self._words = self.view[:HEADER_BYTES].cast("Q")
        self.table = np.frombuffer(mapping, ENTRY, entries, offset=HEADER_BYTES)

    @classmethod
    def create(cls, path: Path, capacity: int) -> Slab:
        """Create a slab for `capacity` payload bytes. Raises `NoSpaceError` if there is no room."""
        capacity = _whole_lines(capacity)
        entries, size = _entries(capacity), file_bytes(capacity)
        descriptor = create_file(path, size, os.O_EXCL)
        try:
            mapping = mmap.mmap(descriptor, size)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        _HEADER.pack_into(mapping, 0, _MAGIC, capacity, entries, 0, SlabState.FREE)
        return cls(path, mapping, capacity, entries)

    @classmethod
    def open(cls, path: Path) -> Slab:
        """Map an existing slab. Raises `ValueError` if the file is not one."""
        with path.open("r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0)
        magic, capacity, entries, _, _ = _HEADER.unpack_from(mapping, 0)
        if magic != _MAGIC:
            raise ValueError(f"{path} is not a slab")
        slab = cls(path, mapping, capacity, entries)
        slab.count = slab.entries
        slab.used = int(slab.table["length"][: slab.count].sum())
        return slab

    @property
    def sequence(self) -> int:
        return self._words[3]

    @property
    def state(self) -> SlabState:
        return SlabState(self._words[4] & 0xFF)

    @property
    def entries(self) -> int:
        """Payloads in the slab, as published in its header."""
        return self._words[4] >> 8

    @cached_property
    def result(self) -> ResultArea:
        """The area for results."""
        return ResultArea(self.view[self.result_offset :])

    @cached_property
    def address(self) -> int:
        """Where the slab is in this process's memory."""
        return int(np.frombuffer(self._mapping, np.uint8).ctypes.data)

    @property
    def data(self) -> memoryview:
        """The payloads, back to back, as received."""
        return self.view[self.data_offset : self.data_offset + self.used]

    # -- the feed's side, in the order of use

    def begin(self, sequence: int) -> None:
        """Start to fill the slab, as batch `sequence`."""
        self.used = self.count = self._decompressed = 0
        self._words[3] = sequence
        self._words[4] = SlabState.FILLING

    def fits(self, length: int, decompressed: int = 0, entries: int = 1) -> bool:
        """Return whether `entries` payloads of `length` bytes fit, and results of `decompressed` bytes."""
        if self.used + length > self.capacity or self.count + entries > self._max_entries:
            return False
        return not (self.count and decompressed) or self._decompressed + decompressed <= self.capacity

    def try_append(self, payload: bytes, kind: int, recv_ns: int) -> bool:
        """Append a plain payload if it fits, and return True. The fast path of streamed payloads."""
        length, used, count = len(payload), self.used, self.count
        end = used + length
        if end > self.capacity or count >= self._max_entries:
            return False
        start = self.data_offset + used
        self.view[start : start + length] = payload
        at = HEADER_BYTES + count * _ENTRY.size
        _ENTRY.pack_into(self._mapping, at, start, length, kind, 0, recv_ns, 0)
        self.used = end
        self.count = count = count + 1
        self._decompressed += length
        self._words[4] = SlabState.FILLING | count << 8
        return True

    def append(
        self,
        payload: bytes | memoryview,
        kind: int,
        recv_ns: int,
        compression: Compression = Compression.PLAIN,
        decompressed: int = 0,
    ) -> int:
        """Append a payload that fits, by its only copy; return its index."""
        index, length = self.count, len(payload)
        start = self.data_offset + self.used
        self.view[start : start + length] = payload
        _ENTRY.pack_into(
            self._mapping,
            HEADER_BYTES + index * ENTRY.itemsize,
            start,
            length,
            kind,
            compression,
            recv_ns,
            0,
        )
        self.used += length
        self._decompressed += decompressed or length
        self.count = index + 1
        # Count and state share a word, so after a kill a successor sees only complete entries.
        self._words[4] = SlabState.FILLING | self.count << 8
        return index

    def seal(self) -> None:
        self._words[4] = SlabState.SEALED | self.count << 8

    def release(self) -> None:
        """Mark the slab as free: its batch is committed."""
        self._words[4] = SlabState.FREE

    def payload(self, index: int) -> memoryview:
        """Return the bytes of payload `index`, in place and still compressed."""
        entry = self.table[index]
        start = int(entry["offset"])
        return self.view[start : start + int(entry["length"])]

    @property
    def result_path(self) -> Path:
        """Path for a result that does not fit into the slab."""
        return self.path.with_name(self.path.name + RESULT_SUFFIX)

    def unlink(self) -> None:
        """Remove the slab's files; processes that have mapped them keep them."""
        self.path.unlink(missing_ok=True)
        self.result_path.unlink(missing_ok=True)
