"""The raw journal: the very bytes of every payload, with the time it came.

    FOLDER/<run>/<stream>/000001.mdj.zst, 000002.mdj, …    segments; a record a batch, in order:

    magic · sequence · entries · bytes │ entries: offset, length, kind, packing, recv_ns │ payloads

A batch is written before it is committed, so that what is in the frames is in the journal. One that is
committed again (its feed was killed in between) may be there twice: readers take each sequence once. A
record that a kill cut short is at the end of a segment, and is no record. Full segments are compressed.
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
_HEAD = struct.Struct("=8sQQQQ")  # magic, sequence, entries, bytes, where in the slab these began
_MAGIC = b"mdjrnl01"


class Entry(NamedTuple):
    """One payload, as it came."""

    kind: PayloadKind
    packing: Packing
    recv_ns: int
    payload: bytes


def journal_path(folder: str, run: str, stream: str) -> Path:
    """The folder with a stream's segments."""
    return Path(folder) / run / stream


class JournalWriter:
    """The journal of one stream of a run, taken up where a killed predecessor left it.

    `missed` counts payloads that could not be written (the disk is full, or gone), from the number that a
    predecessor missed on.
    """

    # The mutable state: the segment being written, how long it is, which batch it has last; segments
    # that are full and not compressed yet.

    def __init__(self, folder: Path, missed: int = 0) -> None:
        self.folder = folder
        self.missed = missed
        self._last = 0
        folder.mkdir(parents=True, exist_ok=True)
        left = _segments(folder)
        self._number = _number(left[-1]) if left else 1
        self._full = [path for path in left[:-1] if path.name.endswith(_RAW)]
        whole = 0
        if left and left[-1].name.endswith(_RAW):
            whole, self._last = _whole(left[-1])
        elif left:
            self._number += 1
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, whole)
        self._size = os.lseek(self._file, whole, os.SEEK_SET)

    @property
    def _path(self) -> Path:
        return self.folder / f"{self._number:06d}{_RAW}"

    def write(self, slab: Slab, sequence: int) -> None:
        """Write a batch, unless it was written before."""
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
                log.error("payloads are not kept in %s: %s", self.folder, error)
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
        """Segments to be compressed, each told once."""
        full, self._full = self._full, []
        return full

    def close(self) -> None:
        os.close(self._file)


def entries(folder: Path) -> Iterator[Entry]:
    """Every payload of a stream's journal, in the order in which they came.

    Raises `ConfigError` where there is no journal.
    """
    segments = _segments(folder)
    if not segments:
        raise ConfigError(f"no journal in {folder}")
    done = 0
    for path in segments:
        for sequence, table, data in _records(path):
            if sequence <= done:
                continue
            done = sequence
            for row in table:
                start = int(row["offset"])
                payload = data[start : start + int(row["length"])]
                kind, packing = PayloadKind(int(row["kind"])), Packing(int(row["packing"]))
                yield Entry(kind, packing, int(row["recv_ns"]), payload)


def compress(path: Path) -> None:
    """Compress a full segment. Done again, after a kill, it does the same."""
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


def _segments(folder: Path) -> list[Path]:
    """The segments of a journal in order; of one that is there both ways, the compressed one is whole."""
    paths = sorted(path for path in folder.glob("*.mdj*") if path.name.endswith((_RAW, PACKED)))
    return [path for _, path in sorted({_number(path): path for path in paths}.items())]


def _number(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _whole(path: Path) -> tuple[int, int]:
    """How many bytes of a segment are whole records, and the sequence of the last one."""
    whole = last = 0
    for sequence, table, data in _records(path):
        whole += _HEAD.size + table.nbytes + len(data)
        last = sequence
    return whole, last


def _records(path: Path) -> Iterator[tuple[int, Any, bytes]]:
    compression = "zstd" if path.name.endswith(PACKED) else None
    with pa.input_stream(str(path), compression=compression) as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            magic, sequence, count, size, begin = _HEAD.unpack(head)
            if magic != _MAGIC:
                raise ConfigError(f"{path} is no journal, or damaged at a record's begin")
            rows, data = file.read(count * ENTRY.itemsize), file.read(size)
            if len(rows) < count * ENTRY.itemsize or len(data) < size:
                return  # a kill cut it short
            table = np.frombuffer(rows, ENTRY).copy()
            table["offset"] -= begin
            yield sequence, table, data
