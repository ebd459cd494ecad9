"""Writes the journal of a stream, and finds what is lost of it.

A batch is written as soon as it is sealed, so the journal has every payload that a worker may decode. If
the feed is killed in between, the batch is committed again and may be in the journal twice.

Writing into a file that was removed or cut raises no error. So the writer looks a few times a second
whether all that it has written is still there (`find_loss`), and before each batch whether its segment was
cut. The successor of a killed feed looks whether the journal has all that `JournalProgress` says.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from mdstream.errors import ConfigError
from mdstream.handoff.slab import Slab
from mdstream.store.journal import (
    HEAD,
    MAGIC,
    RAW,
    has_segment,
    list_segments,
    scan_complete_records,
    segment_number,
)

log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}
"""Errors of a path that leads nowhere; others, such as those of a sick disk, may pass."""


class JournalProgress(NamedTuple):
    """What a stream's journal must have, for the successor of a killed feed."""

    missed: int = 0
    """Payloads that could not be written, or were in segments that are lost."""
    sequence: int = 0
    """The last batch that was written."""
    payloads: int = 0
    """Payloads in all segments."""
    in_segment: int = 0
    """Payloads in the segment that is being written."""


_NOTHING = JournalProgress()


class JournalWriter:
    """Writes the journal of one stream of a run. Continues the journal of a killed predecessor.

    Payloads that cannot be written (the disk may be full) are counted, and the stream goes on. Later,
    writing resumes after the last complete record. `before` is the progress of a killed predecessor.
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
    """Payloads in each segment, by its number. Those of a predecessor's finished segments count in the last
    of them.
    """
    _owed: int
    """Payloads that the predecessor had written, and that are gone."""
    _losses: list[str]
    """What is lost and not reported yet."""
    _place: tuple[int, int] | None
    """Device and inode of the folder when it was last opened; None before."""

    def __init__(self, folder: Path, before: JournalProgress = _NOTHING) -> None:
        self.folder = folder
        self.missed = before.missed
        self._last = self._last_missed = self._size = 0
        self._file, self._is_failing = -1, False
        self._payloads, self._place = Counter(), None
        self._owed, self._losses = 0, []
        self._inherited = before.sequence
        left = list_segments(folder)
        self._number = segment_number(left[-1]) + 1 if left else 1
        self._full = [path for path in left if path.name.endswith(RAW)]
        if left:
            self._resume(left[-1])
        self._compare(before, has_segments=bool(left))

    @property
    def progress(self) -> JournalProgress:
        """What the journal has by now."""
        return JournalProgress(
            self.missed,
            max(self._last, self._inherited),
            sum(self._payloads.values()) + self._owed,
            self._payloads[self._number],
        )

    @property
    def _path(self) -> Path:
        return self.folder / f"{self._number:06d}{RAW}"

    def _resume(self, newest: Path) -> None:
        """Resume the last segment, unless it is compressed, full or damaged."""
        try:
            size, self._last, payloads = scan_complete_records(newest)
        except (ConfigError, OSError) as error:
            log.error("damaged journal segment, continuing in a new one: %s", error)
            return
        if size < SEGMENT_BYTES and newest in self._full:
            self._full.pop()
            self._number -= 1
            self._size = size
            self._payloads[self._number] = payloads

    def _compare(self, before: JournalProgress, *, has_segments: bool) -> None:
        """Find what the predecessor had written and is gone. Batches that come again are written again."""
        resumed = self._payloads[self._number]
        if self._last < before.sequence:
            self._owed = max(0, before.in_segment - resumed) if has_segments else before.payloads
            self._last_missed = before.sequence  # shows the hole if no batch follows
        if earlier := max(0, before.payloads - self._owed - resumed):
            self._payloads[self._number - 1] = earlier

    def write(self, slab: Slab, sequence: int) -> None:
        """Write a batch unless the journal has it. If that fails, count its payloads as missed."""
        if sequence <= self._last:
            return
        if sequence <= self._inherited:
            self._owed = max(0, self._owed - slab.entries)
        head = HEAD.pack(MAGIC, sequence, slab.entries, slab.used, slab.data_offset)
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
        """Find what was removed, replaced or cut, count its payloads as missed, and begin a new segment.

        Return what is lost, for people; empty if nothing is. A finished segment that was moved away on its
        own is not lost.
        """
        with contextlib.suppress(OSError):  # the disk may recover; if not, the next batch fails too
            self._look()
        if owed := self._owed:
            self._owed = 0
            self.missed += owed
            self._losses.append(
                f"{self.folder} was removed, replaced or cut while no feed wrote to it, and {owed:,} "
                "payloads are missing from the journal"
            )
        losses, self._losses = self._losses, []
        return ". ".join(losses)

    def forget(self, number: int, left: int = 0) -> int:
        """Count the payloads of a lost segment except those `left` as missed, once. Return their number."""
        payloads = self._payloads.pop(number, 0) - left
        self.missed += payloads
        self._full = [path for path in self._full if segment_number(path) != number]
        if left:
            self._payloads[number] = left
        return payloads

    def close(self) -> None:
        """End the last segment. No batch may follow."""
        # Without a later record, nothing would show the hole.
        if self._last_missed and self._last_missed >= self._last:
            with contextlib.suppress(OSError):  # the disk is still full; what is missed is counted
                self._append([HEAD.pack(MAGIC, self._last_missed, 0, 0, 0)])
        if self._size:
            self._end_segment()
        elif self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, parts: list[Any]) -> None:
        """Append a record, or leave the segment as it was and raise `OSError`."""
        if self._is_cut():
            self._leave_cut_segment()
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
                raise OSError(f"{self._path} was cut")  # the next batch leaves it
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

    def _look(self) -> None:
        """Leave a segment that is lost or cut, and count what is."""
        lost, where = self._find_lost()
        payloads = sum(map(self.forget, lost))
        if self._number in lost:
            self._leave_segment()
            # A folder that replaced ours may have segments, which are not ours to write to.
            for path in list_segments(self.folder):
                self._number = max(self._number, segment_number(path) + 1)
        if payloads:
            self._note_loss(f"{where} was removed or replaced, and the {payloads:,} payloads in it")
        if self._is_cut():
            self._leave_cut_segment()

    def _note_loss(self, what: str) -> None:
        self._last_missed = max(self._last_missed, self._last)  # shows the hole if no batch follows
        self._losses.append(f"{what} are missing from the journal. It goes on in a new segment")

    def _is_cut(self) -> bool:
        """Return whether the segment is shorter than its complete records."""
        if not self._size:
            return False
        try:
            return os.stat(self._path if self._file < 0 else self._file).st_size < self._size
        except OSError as error:
            if error.errno in _GONE:
                return True
            raise

    def _leave_cut_segment(self) -> None:
        """Keep the records that a cut segment still has; the next batch begins another one."""
        path, left = self._path, 0
        with contextlib.suppress(ConfigError, OSError):
            left = scan_complete_records(path)[2]
        lost = self.forget(self._number, left)
        if left:
            self._full.append(path)
        self._leave_segment()
        self._note_loss(f"{path} was cut or removed, and {lost:,} payloads of it")

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
        """Return whether a segment's path leads to it. The name of a finished one is enough."""
        if number != self._number:
            return has_segment(self.folder / f"{number:06d}{RAW}")
        return self._file < 0 or _identify(self._path) == _identify(self._file)


def _identify(place: Path | int) -> tuple[int, int] | None:
    """Return device and inode of a path or descriptor; None if the path leads nowhere."""
    try:
        found = os.stat(place)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    return found.st_dev, found.st_ino
