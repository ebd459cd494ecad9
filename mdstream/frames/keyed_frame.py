"""A keyed frame: one row per symbol, updated in place, read without locks.

It is one chunk, laid out like those of append-only frames; the number of a row is the symbol's code.
When codes outgrow it, a larger chunk takes its place. Its last column is each row's version, a counter:

    writer   version odd ─► columns ─► version even, one more
    reader   versions ─► columns ─► versions again: rows whose version changed, or is odd, once more

Version 0 marks a row that never had anything. A row whose writer was killed in it stays odd until the
writer's successor, which gets the same batch again, has written it once more.
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
from mdstream.streams.spec import Column

Rows = npt.NDArray[np.int64]
Data = Sequence[tuple[int, ColumnData]]

_START_ROWS = 256
_GROWTH = 4
MOST_ROWS = 1 << 18
"""Symbols that a keyed frame has room for; `KeyedFrameWriter.untracked` counts updates of others."""


class KeyedFrameWriter:
    """The one writer of a keyed frame; resumes the frame that a killed predecessor left.

    `columns` begin with the symbol and end with the version. `facts` describe the rows to readers:
    `levels`, so many levels of an order book, which they see as a row each.
    """

    # Written here alone.
    head: Head
    """In shared memory, as the chunk is: what readers go by."""
    untracked: int
    """Updates of symbols for which there is no room."""
    _chunk: Chunk | None
    _whole: npt.NDArray[np.bool_]
    """For each column, the rows that are known to have a value."""

    def __init__(self, folder: Path, columns: Sequence[Column], share: Share, levels: int = 0) -> None:
        self.columns = tuple(columns)
        self.untracked = 0
        self.head = Head.open_or_create(folder, serialize_schema(columns, keyed="yes", levels=str(levels)))
        self._chunk = None
        self._whole = np.zeros((len(self.columns), 0), np.bool_)
        for path in folder.glob("*.arrow"):
            if self.head.end == 0 or path != self.head.chunk_path(self.head.end - 1):
                path.unlink()  # a former one, or one that was not finished
        if self.head.end:
            entry = self.head.entry(self.head.end - 1)
            self._chunk = self._open(entry.number, entry.capacity)
            self._whole = np.zeros((len(self.columns), entry.capacity), np.bool_)
        share.join(self)

    # -- as a member of its share

    @property
    def bytes(self) -> int:
        return self._chunk.path.stat().st_size if self._chunk is not None else 0

    @property
    def can_drop(self) -> bool:
        return False

    def drop_oldest(self) -> None:
        raise AssertionError("a keyed frame has no old chunks")

    # -- rows

    def update(self, rows: Rows, data: Data, newer: int | None = None) -> None:
        """Write `data` (index of a column, and its values) into `rows`, each given once.

        With `newer`, a row is left as it is if its value in that column is above the new one, or the new
        one is null. Raises `NoSpaceError`, and writes nothing, if there is no room for a larger frame.
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
        assert self._chunk is not None
        views = self._chunk.views
        if newer is not None:
            late = self._late(rows, data, newer)
            if late.any():
                rows, data = _select(~late, rows, data)
                if not len(rows):
                    return
                count = int(rows.max()) + 1
        versions = views[-1].values
        odd = versions[rows] | np.uint64(1)
        versions[rows] = odd
        for index, item in data:
            views[index].values[rows] = item.values
        self._mark(rows, data)
        versions[rows] = odd + np.uint64(1)
        if count > self.head.rows:
            self.head.publish(count, 0)

    def close(self) -> None:
        """No more updates will come."""
        self.head.close()

    def _late(self, rows: Rows, data: Data, newer: int) -> npt.NDArray[np.bool_]:
        """Return which rows have a value above the new one in column `newer`, or get null there."""
        assert self._chunk is not None
        order, view = next(item for index, item in data if index == newer), self._chunk.views[newer]
        late: npt.NDArray[np.bool_] = order.values < view.values[rows]
        if late.any():
            late &= view.present(rows)
        if order.mask is not None:
            late |= ~order.mask
        return late

    def _mark(self, rows: Rows, data: Data) -> None:
        """Set which values are present. Mostly all are, and were before: that is quick."""
        assert self._chunk is not None
        masks = {index: item.mask for index, item in data if item.mask is not None and not item.mask.all()}
        places = np.array([index for index, _ in data])
        there = self._whole[places[:, None], rows].all(axis=1)
        for index in {*masks, *places[~there].tolist()}:
            if self.columns[index].nullable:
                self._chunk.views[index].mark(rows, masks.get(index))
            self._whole[index, rows] = masks.get(index, True)

    def _grow(self, rows: int) -> None:
        """Make room for `rows` rows."""
        old, capacity = self._chunk, self._chunk.rows if self._chunk is not None else 0
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
        self._chunk = new
        self._whole = np.zeros((len(self.columns), capacity), np.bool_)

    def _open(self, number: int, capacity: int) -> Chunk:
        return Chunk(self.head.chunk_path(number), self.columns, 0, capacity)


def _select(which: npt.NDArray[np.bool_], rows: Rows, data: Data) -> tuple[Rows, Data]:
    chosen = np.flatnonzero(which)
    return rows[chosen], [(index, take_rows(item, chosen)) for index, item in data]
