"""The columns of a frame as arrays, for the process that writes it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mdstream.frames.chunk import Chunk, ColumnView
from mdstream.frames.writer import FrameWriter
from mdstream.handoff.columns import ColumnData


class FrameColumns:
    """The kept rows of a frame, chunk by chunk; all columns must have a fixed size."""

    # Written here alone.
    _chunks: dict[int, Chunk]
    """The mapped chunks, by number."""
    _spans: dict[tuple[int, str], tuple[int, int]]
    """First row of a full chunk, and a column → the least and the greatest value there."""

    def __init__(self, frame: FrameWriter) -> None:
        self._frame = frame
        self._names = [column.name for column in frame.columns]
        self._chunks = {}
        self._spans = {}

    @property
    def rows(self) -> int:
        """Rows ever published."""
        return self._frame.rows

    @property
    def first_row(self) -> int:
        """Number of the oldest row that is kept."""
        return self._frame.head.first_row

    def newest_first(self, stop: int) -> Iterator[tuple[int, int, dict[str, ColumnView]]]:
        """Yield the chunks that have rows below `stop`, from the newest to the oldest.

        For each: the number of its first row, its number of rows (below `stop`), and its columns by name.
        """
        head = self._frame.head
        for number in [n for n in self._chunks if n < head.first]:
            del self._chunks[number]
        for number in range(head.end - 1, head.first - 1, -1):
            entry = head.entry(number)
            if entry.start_row >= stop:
                continue
            chunk = self._chunks.get(number)
            if chunk is None:
                path, columns = head.chunk_path(number), self._frame.columns
                chunk = Chunk(path, columns, entry.start_row, entry.capacity, write=False)
                self._chunks[number] = chunk
            yield (
                entry.start_row,
                stop - entry.start_row,
                dict(zip(self._names, chunk.views, strict=True)),
            )
            stop = entry.start_row

    def within(
        self, name: str, first: int, end: int, stop: int
    ) -> Iterator[tuple[int, int, dict[str, ColumnView]]]:
        """Yield as `newest_first`, without chunks where no value of column `name` is in `first`..`end`."""
        for start in [start for start, _ in self._spans if start < self.first_row]:
            self._spans.pop((start, name), None)
        newest = True
        for start, rows, views in self.newest_first(stop):
            if newest:  # it still grows, so its values are not remembered
                newest = False
                yield start, rows, views
                continue
            if (start, name) not in self._spans:
                values = views[name].values[:rows]
                self._spans[start, name] = int(values.min()), int(values.max())
            least, most = self._spans[start, name]
            if least < end and most >= first:
                yield start, rows, views

    def take(self, views: dict[str, ColumnView], rows: npt.NDArray[np.int64]) -> list[ColumnData]:
        """Return a copy of `rows` of a chunk."""
        return [
            ColumnData(view.values[rows], view.present(rows) if column.nullable else None)
            for column, view in zip(self._frame.columns, views.values(), strict=True)
        ]
