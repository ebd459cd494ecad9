"""Writing a frame: append rows, begin new chunks, drop the oldest ones."""

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
"""Factor between the heap items that a chunk used and those that the next one gets."""
_MIN_ROWS = 64
_CHUNKS_PER_SHARE = 12
"""A stream's share has room for this many chunks at least, so that few rows are dropped at a time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a frame, in bytes."""

    retention: int
    """Bytes of the frame."""
    chunk: int
    """Bytes of its largest chunk."""
    together: int = sys.maxsize
    """Bytes of all frames of its stream."""


class FrameWriter:
    """The one writer of a frame; it continues the frame of a killed predecessor.

    It drops its oldest chunk when the frame has more than `limits.retention` bytes, or when the frames of
    `share` have more than their limit. It does so, too, when the file system has no room for a new chunk.
    Rows before `head.first_row` are dropped. Chunks grow from small ones to `limits.chunk`, so a quiet
    frame is small.
    """

    # Written here alone.
    head: Head
    """In shared memory, for readers."""
    _number: int
    """Number of the chunk that is being filled; -1 if there is none."""
    _chunk: Chunk | None
    _sizes: dict[int, int]
    """Bytes of each kept chunk, by number."""
    _heap_per_row: list[float]
    """Heap items to reserve for each row, for each column of variable size."""

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
        """Bytes of the kept chunks."""
        return sum(self._sizes.values())

    @property
    def can_drop(self) -> bool:
        """Whether there is a chunk other than the one that is being filled."""
        return len(self._sizes) > (self._chunk is not None)

    @property
    def rows(self) -> int:
        """Rows ever published."""
        return self.head.rows

    def append(self, data: Sequence[ColumnData], sequence: int = 0) -> None:
        """Append rows and publish them together; skip batch `sequence` if it is already in the frame.

        Raises `NoSpaceError`, and publishes nothing, if there is no room even without the old chunks.
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
                    self._begin_chunk(data, start, total)
                except NoSpaceError:
                    self._resume()  # the rows written so far, maybe to several chunks, are appended again
                    raise
                continue
            nulls = chunk.write(data, start, start + room, total - chunk.start_row)
            self.head.note_nulls(self._number, nulls)
            start += room
            total += room
        self.head.publish(total, sequence)

    def end_of_rows(self) -> tuple[Chunk | None, int, int]:
        """Return the chunk that is being filled, if there is one, its number, and its next row."""
        chunk = self._chunk
        return chunk, self._number, self.head.rows - chunk.start_row if chunk else 0

    def close(self) -> None:
        """Close the frame: its last chunk becomes a complete Arrow file, and tails end."""
        if self._chunk is not None:
            rows = self.head.rows - self._chunk.start_row
            self._chunk.seal(rows, self.head.entry(self._number).nulls)
            self._chunk = None
        self.head.close()

    def _resume(self) -> None:
        """Continue after the last published row."""
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

    def _begin_chunk(self, data: Sequence[ColumnData], start: int, total: int) -> None:
        """Seal the current chunk at row `total`, and begin one with room for at least one more row."""
        full = self._chunk
        if full is not None:
            self._measure_heaps(full, total - full.start_row)
        number = self.head.end
        most = min(self._limits.chunk, self._share.limit // _CHUNKS_PER_SHARE)
        target = min(_FIRST_CHUNK_BYTES * _GROWTH ** min(number, 16), most)
        rows = max(_MIN_ROWS, target // row_bytes(self.columns, self._heap_per_row))
        self._drop_excess(target)
        self._share.make_room(target)
        path = self.head.chunk_path(number)
        while True:
            try:
                Chunk.create(path, self.columns, rows, self._heaps(data, start, rows, target))
                break
            except NoSpaceError:
                if self._share.drop():
                    continue
                if rows == _MIN_ROWS and not target:
                    raise
                rows = max(_MIN_ROWS, rows // _GROWTH)
                target = target // _GROWTH if rows > _MIN_ROWS else 0
        if full is not None:
            full.seal(total - full.start_row, self.head.entry(self._number).nulls)
        self._sizes[number] = path.stat().st_size
        self._chunk = Chunk(path, self.columns, total, rows)
        self._number = self.head.add_chunk(total, rows)

    def _heaps(self, data: Sequence[ColumnData], start: int, rows: int, most: int) -> list[int]:
        """Return the items of each heap of a chunk of `rows` rows.

        A heap has at most `most` bytes, but always room for row `start` of `data`.
        """
        heaps = []
        variable = (item for item in data if item.heap is not None)
        for per_row, item in zip(self._heap_per_row, variable, strict=True):
            assert item.heap is not None
            usual = min(int(rows * per_row), most // item.heap.itemsize)
            heaps.append(max(usual, _length(item, start)))
        return heaps

    def _measure_heaps(self, chunk: Chunk, rows: int) -> None:
        """Note the heap items of each row in `chunk`, with some to spare, for the next chunk."""
        used = [n for n, c in zip(chunk.heap_used, self.columns, strict=True) if c.kind in VARIABLE]
        if rows:
            self._heap_per_row = [n / rows * _SPARE + 1 for n in used]

    def _drop_excess(self, coming: int) -> None:
        """Drop old chunks until there is room for `coming` more bytes and for another entry in the head."""
        while self.can_drop and (
            self.bytes + coming > self._limits.retention or len(self._sizes) >= RING - 1
        ):
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Remove the oldest chunk; readers that have mapped it keep it."""
        oldest = min(self._sizes)
        self.head.retire_first()
        self.head.chunk_path(oldest).unlink(missing_ok=True)
        del self._sizes[oldest]


def _length(item: ColumnData, row: int) -> int:
    """Return the number of heap items of one row."""
    return int(item.values[row]) - (int(item.values[row - 1]) if row else 0)
