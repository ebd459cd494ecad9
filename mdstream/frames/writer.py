"""Writing a frame: rows at its end, new chunks as they fill, the oldest one dropped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdstream.errors import NoSpaceError
from mdstream.frames.chunk import Chunk
from mdstream.frames.head import RING, Head
from mdstream.frames.layout import HEAP_PER_ROW, row_bytes, serialize_schema
from mdstream.frames.share import Share
from mdstream.handoff.columns import ColumnData
from mdstream.streams.spec import VARIABLE, Column

_FIRST_CHUNK_BYTES = 128 * 1024
_GROWTH = 4
_SPARE = 1.2
_LEAST_ROWS = 64
_CHUNKS_PER_SHARE = 12
"""At least so many chunks fit into the share of a stream, so that few rows are dropped at a time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of a frame that are kept, bytes of its largest chunk, and bytes that all frames of its stream
    may take together.
    """

    retention: int
    chunk: int
    together: int = sys.maxsize


class FrameWriter:
    """The one writer of a frame; resumes a frame that a killed predecessor left.

    When a frame holds more than `limits.retention` bytes, its oldest chunk is dropped; so it is, earlier,
    when the frames of its `share` hold more than the share, or the file system has no room for a new chunk.
    `head.first_row` counts the rows. Chunks grow from small to `limits.chunk`, so that a quiet frame stays
    small.
    """

    # Written here alone.
    head: Head
    """In shared memory: what readers go by."""
    _number: int
    """That of the chunk being filled; -1 if there is none."""
    _chunk: Chunk | None
    _sizes: dict[int, int]
    """Bytes of each chunk that is kept, by number."""
    _heap_per_row: list[float]
    """For each column of variable size, heap items of a row: what the last chunk needed, and some more."""

    def __init__(
        self, folder: Path, columns: Sequence[Column], limits: Limits, share: Share | None = None
    ) -> None:
        self.head = Head.open_or_create(folder, serialize_schema(columns))
        self.columns = tuple(columns)
        self._limits = limits
        self._share = share or Share(sys.maxsize)
        self._heap_per_row = [HEAP_PER_ROW[c.kind] for c in self.columns if c.kind in VARIABLE]
        self._resume()
        self._share.join(self)

    @property
    def bytes(self) -> int:
        """Bytes of the chunks that are kept."""
        return sum(self._sizes.values())

    @property
    def can_drop(self) -> bool:
        """Whether there is a chunk besides the one that is being filled."""
        return len(self._sizes) > (self._chunk is not None)

    @property
    def rows(self) -> int:
        """Rows ever published."""
        return self.head.rows

    def append(self, data: Sequence[ColumnData], sequence: int = 0) -> None:
        """Append rows, and publish them all at once. A batch that is already in the frame is skipped.

        Raises `NoSpaceError`, and publishes nothing, where dropping old chunks made no room for a new one.
        """
        if sequence and self.head.has(sequence):
            return
        count = len(data[0].values)
        total, start = self.head.rows, 0
        while start < count:
            chunk = self._chunk
            room = chunk.room(data, start, total - chunk.start_row) if chunk else 0
            if chunk is None or room == 0:
                try:
                    self._rotate(data, start, total)
                except NoSpaceError:
                    self._resume()  # the rows written so far, maybe to several chunks, will come again
                    raise
                continue
            nulls = chunk.write(data, start, start + room, total - chunk.start_row)
            self.head.note_nulls(self._number, nulls)
            start += room
            total += room
        self.head.publish(total, sequence)

    def close(self) -> None:
        """End the frame: its last chunk becomes a complete Arrow file, and tails end."""
        if self._chunk is not None:
            rows = self.head.rows - self._chunk.start_row
            self._chunk.seal(rows, self.head.entry(self._number).nulls)
            self._chunk = None
        self.head.close()

    def _resume(self) -> None:
        """Continue behind the last row that was published."""
        head = self.head
        while head.end > head.first and head.entry(head.end - 1).start_row > head.rows:
            head.discard_last()
        kept = {head.chunk_path(number): number for number in range(head.first, head.end)}
        for path in head.folder.glob("*.arrow"):
            if path not in kept:
                path.unlink()
        self._sizes = {number: path.stat().st_size for path, number in kept.items()}
        self._number, self._chunk = -1, None
        if kept:
            entry = head.entry(head.end - 1)
            self._number = entry.number
            path = head.chunk_path(entry.number)
            self._chunk = Chunk(path, self.columns, entry.start_row, entry.capacity)
            self._chunk.resume(head.rows - entry.start_row)

    def _rotate(self, data: Sequence[ColumnData], start: int, total: int) -> None:
        """Close the current chunk at row `total`, and begin one with room for at least one row."""
        full = self._chunk
        if full is not None:
            self._learn(full, total - full.start_row)
        number = self.head.end
        most = min(self._limits.chunk, self._share.limit // _CHUNKS_PER_SHARE)
        target = min(_FIRST_CHUNK_BYTES * _GROWTH ** min(number, 16), most)
        rows = max(_LEAST_ROWS, target // row_bytes(self.columns, self._heap_per_row))
        self._retire(target)
        self._share.make_room(target)
        path = self.head.chunk_path(number)
        while True:
            try:
                Chunk.create(path, self.columns, rows, self._heaps(data, start, rows, target))
                break
            except NoSpaceError:
                if self._share.drop():
                    continue
                if rows == _LEAST_ROWS and not target:
                    raise
                rows = max(_LEAST_ROWS, rows // _GROWTH)
                target = target // _GROWTH if rows > _LEAST_ROWS else 0
        if full is not None:
            full.seal(total - full.start_row, self.head.entry(self._number).nulls)
        self._sizes[number] = path.stat().st_size
        self._chunk = Chunk(path, self.columns, total, rows)
        self._number = self.head.add_chunk(total, rows)

    def _heaps(self, data: Sequence[ColumnData], start: int, rows: int, most: int) -> list[int]:
        """Return the items of each heap of a chunk of `rows` rows: `most` bytes at most, but enough for row
        `start` of `data`.
        """
        heaps = []
        variable = (item for item in data if item.heap is not None)
        for per_row, item in zip(self._heap_per_row, variable, strict=True):
            assert item.heap is not None
            usual = min(int(rows * per_row), most // item.heap.itemsize)
            heaps.append(max(usual, _length(item, start)))
        return heaps

    def _learn(self, chunk: Chunk, rows: int) -> None:
        """Size the heaps of the next chunk by what the rows of this one used, and some more."""
        used = [n for n, c in zip(chunk.heap_used, self.columns, strict=True) if c.kind in VARIABLE]
        if rows:
            self._heap_per_row = [n / rows * _SPARE + 1 for n in used]

    def _retire(self, coming: int) -> None:
        while self.can_drop and (
            self.bytes + coming > self._limits.retention or len(self._sizes) >= RING - 1
        ):
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Remove the oldest chunk; readers that have it mapped keep it."""
        oldest = min(self._sizes)
        self.head.retire_first()
        self.head.chunk_path(oldest).unlink(missing_ok=True)
        del self._sizes[oldest]


def _length(item: ColumnData, row: int) -> int:
    """Return how many heap items one row has."""
    return int(item.values[row]) - (int(item.values[row - 1]) if row else 0)
