"""The raw journal: the bytes of every payload, with the time of receipt.

    FOLDER/<run>/<stream>/000001.mdj.zst, 000002.mdj, …    segments; one record per batch, in order:

    magic · sequence · entries · bytes │ entries: offset, length, kind, compression, recv_ns │ payloads

A gap in the sequence is a hole: batches that were not written, or are lost. A record without entries, at
the end of a journal, names the last of them.

A batch is written as soon as it is sealed, so the journal has every payload that a worker may decode. If
the feed is killed in between, the batch is committed again and may be in the journal twice: readers take
each sequence once. A kill may cut off the last record of a segment; readers ignore that record. Finished
segments are compressed.

Writing into a file that was removed raises no error, so the writer looks a few times a second whether the
path still leads to its segment (`find_loss`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mdstream.errors import ConfigError
from mdstream.handoff.compression import Compression
from mdstream.handoff.slab import ENTRY, Slab
from mdstream.streams.spec import PayloadKind

log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
PACKED = ".mdj.zst"
_RAW = ".mdj"
_SEGMENT = re.compile(r"\d+\.mdj(\.zst)?")
_HEAD = struct.Struct("=8sQQQQ")  # magic, sequence, entries, bytes, offset in the slab at which these began
_MAGIC = b"mdjrnl01"
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}
"""Errors of a path that leads nowhere; others, such as those of a sick disk, may pass."""


class JournalEntry(NamedTuple):
    """One payload, as it was received."""

    kind: PayloadKind
    compression: Compression
    recv_ns: int
    payload: bytes


class Hole(NamedTuple):
    """Batches that a journal lacks: its disk was full, or a segment is gone."""

    batches: int
    after_ns: int
    """Receive time of the last payload before them; 0 if there is none."""


def journal_path(folder: str, run: str, stream: str) -> Path:
    """Return the folder with a stream's segments."""
    return Path(folder) / run / stream


class JournalWriter:
    """Writes the journal of one stream of a run. Continues the journal of a killed predecessor.

    Payloads that cannot be written (the disk may be full) are counted, and the stream goes on. Later,
    writing resumes after the last complete record. `missed` is the count of a killed predecessor.
    """

    # Written by this class only.
    missed: int
    """Payloads that could not be written, or were in segments that are lost."""
    _last: int
    """Sequence of the last batch that was written."""
    _last_missed: int
    """Sequence of the last batch that could not be written, or is lost."""
    _is_failing: bool
    """Whether the last batch could not be written."""
    _number: int
    """Number of the segment that is being written, or of the next one."""
    _file: int
    """Its descriptor; -1 while it is not open."""
    _size: int
    """Bytes of its complete records."""
    _full: list[Path]
    """Segments to be compressed."""
    _payloads: Counter[int]
    """Payloads in each segment, by its number; those of a predecessor only if its segment was resumed."""
    _place: tuple[int, int] | None
    """Device and inode of the folder when it was last opened; None before."""

    def __init__(self, folder: Path, missed: int = 0) -> None:
        self.folder = folder
        self.missed = missed
        self._last = self._last_missed = self._size = 0
        self._file, self._is_failing = -1, False
        self._payloads, self._place = Counter(), None
        left = _list_segments(folder)
        self._number = segment_number(left[-1]) + 1 if left else 1
        self._full = [path for path in left if path.name.endswith(_RAW)]
        if self._full and self._full[-1] == left[-1]:
            self._resume()

    @property
    def _path(self) -> Path:
        return self.folder / f"{self._number:06d}{_RAW}"

    def _resume(self) -> None:
        """Resume the last segment, unless it is full or damaged."""
        try:
            size, self._last, payloads = _scan_complete_records(self._full[-1])
        except (ConfigError, OSError) as error:
            log.error("damaged journal segment, continuing in a new one: %s", error)
            return
        if size < SEGMENT_BYTES:
            self._full.pop()
            self._number -= 1
            self._size = size
            self._payloads[self._number] = payloads

    def write(self, slab: Slab, sequence: int) -> None:
        """Write a batch unless the journal has it. If that fails, count its payloads as missed."""
        if sequence <= self._last:
            return
        head = _HEAD.pack(_MAGIC, sequence, slab.entries, slab.used, slab.data_offset)
        try:
            self._append([head, slab.table[: slab.entries].tobytes(), slab.data])
        except OSError as error:
            if not self._is_failing:
                log.error(
                    "cannot write the journal in %s, counting missed payloads: %s", self.folder, error
                )
            self._is_failing = True
            self.missed += slab.entries
            self._last_missed = sequence
            return
        self._last, self._is_failing = sequence, False
        self._payloads[self._number] += slab.entries
        if self._size >= SEGMENT_BYTES:
            self._end_segment()

    def take_full(self) -> list[Path]:
        """Return the segments to be compressed, each once."""
        full, self._full = self._full, []
        return full

    def find_loss(self) -> str:
        """Find segments that were removed or replaced, count their payloads as missed, and begin a new one.

        Return what is lost, for people; empty if nothing is. A finished segment that was moved away on its
        own is not lost.
        """
        try:
            lost, where = self._find_lost()
        except OSError:  # the disk may recover; if not, the next batch cannot be written either
            return ""
        payloads = sum(map(self.forget, lost))
        if self._number in lost:
            self._leave_segment()
            # A folder that replaced ours may have segments, which are not ours to write to.
            for path in _list_segments(self.folder):
                self._number = max(self._number, segment_number(path) + 1)
        if not payloads:
            return ""
        self._last_missed = max(self._last_missed, self._last)  # shows the hole if no batch follows
        return (
            f"{where} was removed or replaced, and the {payloads:,} payloads in it are missing from the "
            "journal. It goes on in a new segment"
        )

    def forget(self, number: int) -> int:
        """Count the payloads of a lost segment as missed, once. Return how many there are."""
        payloads = self._payloads.pop(number, 0)
        self.missed += payloads
        self._full = [path for path in self._full if segment_number(path) != number]
        return payloads

    def close(self) -> None:
        """End the last segment. No batch may follow."""
        # Without a later record, nothing would show the hole.
        if self._last_missed and self._last_missed >= self._last:
            with contextlib.suppress(OSError):  # the disk is still full; what is missed is counted
                self._append([_HEAD.pack(_MAGIC, self._last_missed, 0, 0, 0)])
        if self._size:
            self._end_segment()
        elif self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, parts: list[Any]) -> None:
        """Append a record, or leave the segment as it was and raise `OSError`."""
        if self._file < 0:
            self._open()
        length = sum(map(len, parts))
        try:
            written = os.writev(self._file, parts)
            if written < length:
                raise OSError(f"only {written} of {length} bytes could be written")
        except OSError:
            self._take_back()
            raise
        self._size += length

    def _open(self) -> None:
        """Open the segment, after its last complete record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < self._size:
                lost, self._size = self.forget(self._number), 0
                log.error("%s was removed, and the %d payloads in it are missing", self._path, lost)
            os.ftruncate(descriptor, self._size)
            self._place = _identify(self.folder)
        except OSError:
            os.close(descriptor)
            raise
        self._file = descriptor

    def _take_back(self) -> None:
        """Remove an incomplete record. If that fails too, end the segment here."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self._end_segment()

    def _end_segment(self) -> None:
        self._full.append(self._path)
        self._leave_segment()

    def _leave_segment(self) -> None:
        """Close the segment; the next batch begins another one."""
        with contextlib.suppress(OSError):  # a late disk error cannot be attributed to a batch
            if self._file >= 0:
                os.close(self._file)
        self._file, self._size = -1, 0
        self._number += 1

    def _find_lost(self) -> tuple[list[int], Path]:
        """Return the numbers of lost segments, and the path that no longer leads to them."""
        if self._place is None:
            return [], self.folder
        if (place := _identify(self.folder)) != self._place:
            self._place = place
            ours = {*self._payloads, self._number}
            return [number for number in ours if not self._is_there(number)], self.folder
        return [] if self._is_there(self._number) else [self._number], self._path

    def _is_there(self, number: int) -> bool:
        """Return whether a segment's path leads to it. Of a finished one, its name is enough."""
        if number != self._number:
            return has_segment(self.folder / f"{number:06d}{_RAW}")
        return self._file < 0 or _identify(self._path) == _identify(self._file)


def read_entries(
    folder: Path, on_hole: Callable[[Hole], None] = lambda hole: None
) -> Iterator[JournalEntry]:
    """Iterate over the payloads of a stream's journal, in the order in which they were received.

    `on_hole` is called where batches are missing. Raises `ConfigError` if there is no journal.
    """
    segments = _list_segments(folder)
    if not segments:
        raise ConfigError(f"no journal in {folder}")
    done = after_ns = 0
    for path in segments:
        for sequence, table, data in _read_records(path):
            if sequence <= done:
                continue
            if missing := sequence - done - bool(len(table)):
                on_hole(Hole(missing, after_ns))
            done = sequence
            after_ns = int(table["recv_ns"][-1]) if len(table) else after_ns
            for row in table:
                start = int(row["offset"])
                payload = data[start : start + int(row["length"])]
                kind, compression = PayloadKind(int(row["kind"])), Compression(int(row["compression"]))
                yield JournalEntry(kind, compression, int(row["recv_ns"]), payload)


def has_segment(path: Path) -> bool:
    """Return whether a finished segment exists, compressed or not."""
    return path.exists() or path.with_suffix(PACKED).exists()


def segment_number(path: Path) -> int:
    """Return the number of a segment."""
    return int(path.name.partition(".")[0])


def compress(path: Path) -> None:
    """Compress a finished segment. It is safe to repeat after a kill."""
    compressed = path.with_suffix(PACKED)
    partial = compressed.with_suffix(".partial")
    with (
        pa.OSFile(str(path), "rb") as source,
        pa.CompressedOutputStream(pa.OSFile(str(partial), "wb"), "zstd") as into,
    ):
        while chunk := source.read(1 << 20):
            into.write(chunk)
    partial.rename(compressed)
    path.unlink()


def _list_segments(folder: Path) -> list[Path]:
    """Return the segments of a journal in order.

    If a segment exists in both forms, return the compressed one: it is complete.
    """
    paths = sorted(path for path in folder.glob("*.mdj*") if _SEGMENT.fullmatch(path.name))
    return [path for _, path in sorted({segment_number(path): path for path in paths}.items())]


def _identify(place: Path | int) -> tuple[int, int] | None:
    """Return device and inode of a path or descriptor; None if the path leads nowhere."""
    try:
        found = os.stat(place)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    return found.st_dev, found.st_ino


def _scan_complete_records(path: Path) -> tuple[int, int, int]:
    """Return the length of a segment's complete records, the last one's sequence, and the payloads."""
    length = last = payloads = 0
    for sequence, table, data in _read_records(path):
        length += _HEAD.size + table.nbytes + len(data)
        last = sequence
        payloads += len(table)
    return length, last, payloads


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
