"""The head of a frame: how many rows it has, and in which chunks.

A head is a small mapped file of 64-bit words beside the chunks. Each word is written with one aligned
store, in this order, so it needs no lock (x86-64 keeps stores in order; see docs/architecture.md):

    new chunk     its entry, then `end`
    new rows      the rows, their null bits in the entry, `pending`, `applied`, then `rows`
    oldest chunk  `first`, then the file is removed

A reader loads `rows`, then `end`, then `first`: every row below `rows` is in a chunk below `end`.

Two words make a commit happen exactly once, even if the writer is killed during it. `pending` and `applied`
are stored before `rows`, so the batch `applied` is in the frame if and only if `pending == rows`. A
successor that gets the same batch again skips it, or writes the same rows to the same place.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdstream.handoff.space import create_file, room_for

RING = 1024
"""Chunks that a head has room for; the writer drops the oldest before it needs more."""

_WORDS = 16
_ENTRY_WORDS = 4
WORDS = _WORDS + _ENTRY_WORDS * RING
_BYTES = 8 * WORDS
_MAGIC = 0x3130_6461_6568_646D  # "mdhead01"
ROWS, _FIRST, _END, PENDING, APPLIED, _CLOSED = 1, 2, 3, 4, 5, 6


class ChunkEntry(NamedTuple):
    """One chunk."""

    number: int
    start_row: int
    """Number of its first row in the frame."""
    nulls: int
    """A bit for each column that has a null."""
    capacity: int
    """Rows that it has room for."""


class Head:
    """The head of the frame in `folder`, mapped. Raises `ValueError` if the file is not a head."""

    def __init__(self, folder: Path, write: bool) -> None:
        self.folder = folder
        flags = os.O_RDWR if write else os.O_RDONLY
        descriptor = os.open(folder / "head", flags | os.O_CLOEXEC)
        try:
            access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
            mapping = mmap.mmap(descriptor, _BYTES, access=access)
            self._words = memoryview(mapping).cast("Q")
            self.array: npt.NDArray[np.uint64] = np.frombuffer(mapping, np.uint64)
            """All words, for kernels."""
        finally:
            os.close(descriptor)
        if self._words[0] != _MAGIC:
            raise ValueError(f"{folder} is not a frame")

    @classmethod
    def open_or_create(cls, folder: Path, schema: bytes) -> Head:
        """Return the head of the frame in `folder`, for its writer; a new frame gets `schema`.

        Raises `NoSpaceError` if there is no room for a new one.
        """
        if not (folder / "head").exists():
            with room_for(folder, len(schema)):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "schema").write_bytes(schema)
            cls.create(folder)  # last: readers see a frame once it has a head
        head = cls(folder, write=True)
        head.close(False)
        return head

    @staticmethod
    def create(folder: Path) -> None:
        """Create the head of a new frame. Raises `NoSpaceError` if there is no room."""
        hidden = folder / "head.new"
        descriptor = create_file(hidden, _BYTES, os.O_TRUNC)
        try:
            os.pwrite(descriptor, _MAGIC.to_bytes(8, "little"), 0)
        finally:
            os.close(descriptor)
        hidden.rename(folder / "head")

    def chunk_path(self, number: int) -> Path:
        return self.folder / f"{number:010d}.arrow"

    # -- for readers, in this order

    @property
    def rows(self) -> int:
        """Rows ever published, and so the number of the next row."""
        return self._words[ROWS]

    @property
    def end(self) -> int:
        """Number of the next chunk."""
        return self._words[_END]

    @property
    def first(self) -> int:
        """Number of the oldest chunk that is kept."""
        return self._words[_FIRST]

    @property
    def first_row(self) -> int:
        """Number of the oldest row that is kept; 0 if there is no chunk."""
        end, first = self.end, self.first
        return self.entry(first).start_row if end > first else 0

    @property
    def closed(self) -> bool:
        """Whether the writer has closed the frame: no more rows will come."""
        return bool(self._words[_CLOSED])

    def entry(self, number: int) -> ChunkEntry:
        at = _place(number)
        return ChunkEntry(*self._words[at : at + _ENTRY_WORDS].tolist())

    # -- for the frame's writer alone

    def add_chunk(self, start_row: int, capacity: int) -> int:
        """Add the entry of a new chunk; return its number."""
        number = self.end
        at = _place(number)
        for i, word in enumerate((number, start_row, 0, capacity)):
            self._words[at + i] = word
        self._words[_END] = number + 1
        return number

    def discard_last(self) -> None:
        """Remove the entry of a chunk that a killed writer made for rows it never published."""
        self._words[_END] -= 1

    @staticmethod
    def nulls_word(number: int) -> int:
        """Return the word of a chunk's columns with nulls."""
        return _place(number) + 2

    def note_nulls(self, number: int, nulls: int) -> None:
        """Add columns with nulls to a chunk's entry."""
        at = self.nulls_word(number)
        if nulls & ~self._words[at]:
            self._words[at] |= nulls

    def publish(self, rows: int, sequence: int) -> None:
        """Make all rows below `rows` visible, as the result of batch `sequence`."""
        self._words[PENDING] = rows
        self._words[APPLIED] = sequence
        self._words[ROWS] = rows

    def has(self, sequence: int) -> bool:
        """Whether batch `sequence` is already in the frame."""
        words = self._words
        return words[APPLIED] >= sequence and words[PENDING] == words[ROWS]

    def close(self, closed: bool = True) -> None:
        self._words[_CLOSED] = closed

    def retire_first(self) -> None:
        """Remove the entry of the oldest chunk."""
        self._words[_FIRST] += 1


def _place(number: int) -> int:
    """Return the index of the first word of a chunk's entry."""
    return _WORDS + number % RING * _ENTRY_WORDS
