"""A keyed frame: one row per symbol, updated in place, read without locks.

It is one chunk with the layout of append-only frames; the number of a row is the symbol's code. When codes
outgrow the chunk, a larger one replaces it. Its last column is the version of each row, a counter. The
version is an odd number while the row is written:

    writer   version + 1 ─► columns ─► version + 1
    reader   versions ─► columns ─► versions again; repeat rows whose version changed, or is an odd number

Version 0 means that the row never had data. If the writer is killed while it writes a row, readers leave
the row out until the writer's successor, which gets the same batch again, has written it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mdstream.frames.chunk import Chunk
from mdstream.frames.head import Head
from mdstream.frames.layout import serialize_schema
from mdstream.frames.share import Share
from mdstream.handoff.columns import ColumnData, take_rows
from mdstream.streams.spec import MOST_AHEAD_NS, Column

Rows = npt.NDArray[np.int64]
Data = Sequence[tuple[int, ColumnData]]

_START_ROWS = 256
_GROWTH = 4
MOST_ROWS = 1 << 18
"""Rows that a keyed frame may have; `KeyedFrameWriter.untracked` counts updates of further symbols."""


class KeyedFrameWriter:
    """The one writer of a keyed frame; it continues the frame of a killed predecessor.

    `columns` begin with the symbol and end with the version. `levels` is the number of order-book levels
    in a row; readers get a row for each.
    """

    # Written here alone.
    head: Head
    """In shared memory, for readers; so is the chunk."""
    untracked: int
    """Updates of symbols for which there is no room."""
    chunk: Chunk | None
    present: npt.NDArray[np.bool_]
    """By column and row: True if the value is known to be present."""

    def __init__(self, folder: Path, columns: Sequence[Column], share: Share, levels: int = 0) -> None:
        self.columns = tuple(columns)
        self.untracked = 0
        self.head = Head.open_or_create(folder, serialize_schema(columns, keyed="yes", levels=str(levels)))
        self.chunk = None
        self.present = np.zeros((len(self.columns), 0), np.bool_)
        for path in folder.glob("*.arrow"):
            if self.head.end == 0 or path != self.head.chunk_path(self.head.end - 1):
                path.unlink()  # one that was replaced, or was not finished
        if self.head.end:
            entry = self.head.entry(self.head.end - 1)
            self.chunk = self._open(entry.number, entry.capacity)
            self.present = np.zeros((len(self.columns), entry.capacity), np.bool_)
        share.join(self)

    # -- as a member of the share

    @property
    def bytes(self) -> int:
        return self.chunk.path.stat().st_size if self.chunk is not None else 0

    @property
    def can_drop(self) -> bool:
        return False

    def drop_oldest(self) -> None:
        raise AssertionError("a keyed frame has no old chunks")

    # -- rows

    def update(self, rows: Rows, data: Data, newer: tuple[int, int] | None = None) -> None:
        """Write `data` (pairs of a column's index and its values) into `rows`, which are distinct.

        `newer` has the indexes of the columns of time and receipt. With it, rows stay as they are if their
        time is later than the new one, or the new one is null. A time that is too far ahead of its receipt
        counts as earlier than all others. Raises `NoSpaceError`, and writes nothing, if there is no room
        for a larger frame.
        """
        if not len(rows):
            return
        count = int(rows.max()) + 1
        if count > MOST_ROWS:
            fits = rows < MOST_ROWS
            self.untracked += len(rows) - int(np.count_nonzero(fits))
            self.update(*_select(fits, rows, data), newer)
            return
        self._grow(count)
        assert self.chunk is not None
        views = self.chunk.views
        if newer is not None:
            late = self._find_late(rows, data, newer)
            if late.any():
                rows, data = _select(~late, rows, data)
                if not len(rows):
                    return
                count = int(rows.max()) + 1
        versions = views[-1].values
        in_progress = versions[rows] | np.uint64(1)
        versions[rows] = in_progress
        for index, item in data:
            views[index].values[rows] = item.values
        self._mark(rows, data)
        versions[rows] = in_progress + np.uint64(1)
        if count > self.head.rows:
            self.head.publish(count, 0)

    def find(self, index: int, value: int) -> Rows:
        """Return the rows that have `value` in the column with this index."""
        if self.chunk is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.chunk.views[index].values == value)

    def close(self) -> None:
        """Close the frame: it gets no more updates."""
        self.head.close()

    def _find_late(self, rows: Rows, data: Data, newer: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return which rows have a later time than the new one, or get null as their time."""
        assert self.chunk is not None
        time, received = (next(item for index, item in data if index == column) for column in newer)
        views = [self.chunk.views[column] for column in newer]
        late: npt.NDArray[np.bool_] = time.values < views[0].values[rows]
        ahead = time.values - received.values > MOST_AHEAD_NS
        if late.any() or ahead.any():
            known, known_received = (view.values[rows] for view in views)
            was_ahead = known - known_received > MOST_AHEAD_NS
            late = np.where(ahead == was_ahead, late, ahead) & views[0].present(rows)
        if time.mask is not None:
            late |= ~time.mask
        return late

    def _mark(self, rows: Rows, data: Data) -> None:
        """Set which values are present. In the usual case all are, and were before: this is fast."""
        assert self.chunk is not None
        masks = {index: item.mask for index, item in data if item.mask is not None and not item.mask.all()}
        places = np.array([index for index, _ in data])
        were_present = self.present[places[:, None], rows].all(axis=1)
        for index in {*masks, *places[~were_present].tolist()}:
            if self.columns[index].nullable:
                self.chunk.views[index].mark(rows, masks.get(index))
            self.present[index, rows] = masks.get(index, True)

    def _grow(self, rows: int) -> None:
        """Make room for `rows` rows."""
        old, capacity = self.chunk, self.chunk.rows if self.chunk is not None else 0
        if rows <= capacity:
            return
        capacity = max(capacity, _START_ROWS)
        while capacity < rows:
            capacity = min(capacity * _GROWTH, MOST_ROWS)
        number = self.head.end
        Chunk.create(self.head.chunk_path(number), self.columns, capacity, ())
        new = self._open(number, capacity)
        every = np.arange(capacity)
        new.views[0].values[:] = every
        for view, column in zip(new.views, self.columns, strict=True):
            if column.nullable:
                view.mark(every, np.zeros(capacity, np.bool_))
        if old is not None:
            every = np.arange(old.rows)
            for view, former, column in zip(new.views, old.views, self.columns, strict=True):
                view.values[: old.rows] = former.values[: old.rows]
                if column.nullable:
                    view.mark(every, former.present(every))
        self.head.add_chunk(0, capacity)
        self.head.note_nulls(number, (1 << 64) - 1)
        if old is not None:
            self.head.retire_first()
            old.path.unlink(missing_ok=True)
        self.chunk = new
        self.present = np.zeros((len(self.columns), capacity), np.bool_)

    def _open(self, number: int, capacity: int) -> Chunk:
        return Chunk(self.head.chunk_path(number), self.columns, 0, capacity)


def _select(which: npt.NDArray[np.bool_], rows: Rows, data: Data) -> tuple[Rows, Data]:
    chosen = np.flatnonzero(which)
    return rows[chosen], [(index, take_rows(item, chosen)) for index, item in data]
