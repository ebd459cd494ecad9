"""The raw journal: the bytes of every payload, with the time of receipt.

    FOLDER/<run>/<stream>/000001.mdj.zst, 000002.mdj, …    segments; one record per batch, in order:

    magic · sequence · entries · bytes │ entries: offset, length, kind, packing, recv_ns │ payloads

A batch is written before it is committed, so the journal has every payload whose rows are in the frames. If
the feed is killed in between, the batch is committed again and may be in the journal twice: readers take
each sequence once. A kill may cut off the last record of a segment; readers ignore that record. Full
segments are compressed.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mdstream.errors import ConfigError
from mdstream.handoff.packing import Packing
from mdstream.handoff.slab import ENTRY, Slab
from mdstream.streams.spec import PayloadKind

log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
PACKED = ".mdj.zst"
_RAW = ".mdj"
_HEAD = struct.Struct("=8sQQQQ")  # magic, sequence, entries, bytes, offset in the slab at which these began
_MAGIC = b"mdjrnl01"


class Entry(NamedTuple):
    """One payload, as it was received."""

    kind: PayloadKind
    packing: Packing
    recv_ns: int
    payload: bytes


def journal_path(folder: str, run: str, stream: str) -> Path:
    """Return the folder with a stream's segments."""
    return Path(folder) / run / stream


class JournalWriter:
    """Writes the journal of one stream of a run. Continues the journal of a killed predecessor.

    `missed` is the number of payloads that the predecessor could not write.
    """

    # Written by `write`, `take_full` and `close`.
    missed: int
    """Payloads that could not be written: the disk is full, or gone."""
    _file: int
    """Descriptor of the segment that is being written."""
    _number: int
    _size: int
    """Its number, and its length in bytes."""
    _last: int
    """Sequence of the last batch that was written."""
    _full: list[Path]
    """Full segments that `take_full` has not returned yet."""

    def __init__(self, folder: Path, missed: int = 0) -> None:
        self.folder = folder
        self.missed = missed
        self._last = 0
        folder.mkdir(parents=True, exist_ok=True)
        left = _list_segments(folder)
        self._number = _segment_number(left[-1]) if left else 1
        self._full = [path for path in left[:-1] if path.name.endswith(_RAW)]
        length = 0
        if left and left[-1].name.endswith(_RAW):
            length, self._last = _scan_complete_records(left[-1])
        elif left:
            self._number += 1
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, length)
        self._size = os.lseek(self._file, length, os.SEEK_SET)

    @property
    def _path(self) -> Path:
        return self.folder / f"{self._number:06d}{_RAW}"

    def write(self, slab: Slab, sequence: int) -> None:
        """Write a batch, unless it has been written before. If that fails, count its payloads as missed."""
        if sequence <= self._last:
            return
        head = _HEAD.pack(_MAGIC, sequence, slab.entries, slab.used, slab.data_offset)
        parts: list[Any] = [head, slab.table[: slab.entries].tobytes(), slab.data]
        length = sum(map(len, parts))
        try:
            written = os.writev(self._file, parts)
            if written < length:
                raise OSError(f"only {written} of {length} bytes could be written")
        except OSError as error:
            if not self.missed:
                log.error("journal %s: payloads cannot be written, and are counted: %s", self.folder, error)
            self.missed += slab.entries
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            return
        self._last = sequence
        self._size += length
        if self._size >= SEGMENT_BYTES:
            self._full.append(self._path)
            os.close(self._file)
            self._number += 1
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._size = 0

    def take_full(self) -> list[Path]:
        """Return the full segments that are to be compressed; return each only once."""
        full, self._full = self._full, []
        return full

    def close(self) -> None:
        os.close(self._file)


def read_entries(folder: Path) -> Iterator[Entry]:
    """Iterate over the payloads of a stream's journal, in the order in which they were received.

    Raises `ConfigError` if there is no journal.
    """
    segments = _list_segments(folder)
    if not segments:
        raise ConfigError(f"no journal in {folder}")
    done = 0
    for path in segments:
        for sequence, table, data in _read_records(path):
            if sequence <= done:
                continue
            done = sequence
            for row in table:
                start = int(row["offset"])
                payload = data[start : start + int(row["length"])]
                kind, packing = PayloadKind(int(row["kind"])), Packing(int(row["packing"]))
                yield Entry(kind, packing, int(row["recv_ns"]), payload)


def compress(path: Path) -> None:
    """Compress a full segment. It is safe to repeat after a kill."""
    packed = path.with_suffix(PACKED)
    partial = packed.with_suffix(".partial")
    with (
        pa.OSFile(str(path), "rb") as source,
        pa.CompressedOutputStream(pa.OSFile(str(partial), "wb"), "zstd") as into,
    ):
        while chunk := source.read(1 << 20):
            into.write(chunk)
    partial.rename(packed)
    path.unlink()


def _list_segments(folder: Path) -> list[Path]:
    """Return the segments of a journal in order.

    If a segment is there in both forms, return the compressed one: it is complete.
    """
    paths = sorted(path for path in folder.glob("*.mdj*") if path.name.endswith((_RAW, PACKED)))
    return [path for _, path in sorted({_segment_number(path): path for path in paths}.items())]


def _segment_number(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _scan_complete_records(path: Path) -> tuple[int, int]:
    """Return the length of a segment's complete records in bytes, and the sequence of the last one."""
    length = last = 0
    for sequence, table, data in _read_records(path):
        length += _HEAD.size + table.nbytes + len(data)
        last = sequence
    return length, last


def _read_records(path: Path) -> Iterator[tuple[int, Any, bytes]]:
    compression = "zstd" if path.name.endswith(PACKED) else None
    with pa.input_stream(str(path), compression=compression) as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            magic, sequence, count, size, begin = _HEAD.unpack(head)
            if magic != _MAGIC:
                raise ConfigError(f"{path} is not a journal, or is damaged at the start of a record")
            rows, data = file.read(count * ENTRY.itemsize), file.read(size)
            if len(rows) < count * ENTRY.itemsize or len(data) < size:
                return  # a kill cut it off
            table = np.frombuffer(rows, ENTRY).copy()
            table["offset"] -= begin
            yield sequence, table, data
