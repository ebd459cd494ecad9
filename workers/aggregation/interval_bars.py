"""Bars of one interval: the table of bars that can still change, and the rows to publish.

`aggregation.bars` adds the partials of batches; the kernels are in `kernels.bar_table`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.frames.chunk import ColumnView
from mdstream.frames.frame_columns import FrameColumns
from mdstream.handoff.columns import ColumnData
from mdstream.streams.bar_rules import BAR_INTERVALS
from mdstream.streams.spec import Channel, Kind
from workers.kernels import bar_table as kernels
from workers.kernels.partials import SECOND
from workers.python_mode import either_way

MINUTE = 60 * SECOND
KEPT = {SECOND: MINUTE, MINUTE: 60 * MINUTE}
"""Bar length → how late a trade may be and still revise the bar."""
EVERY = {SECOND: SECOND, MINUTE: MINUTE // 2}
"""Bar length → how often bars that are over and have changed are published."""
_START = 1024

_join = either_way(kernels.join)
_touch = either_way(kernels.touch)
_index = either_way(kernels.index)
_build = either_way(kernels.build)
_close = either_way(kernels.close)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _LastRow:
    """The last published row of a bar; `values` are those of `_SAYS`."""

    complete: bool
    values: tuple[float, ...]

    def says(self, bar: Any) -> bool:
        """Return whether `bar` equals its published row, except for rounding."""
        trades, *prices, volume = self.values
        now = (bar["open"], bar["high"], bar["low"], bar["close"])
        return bool(
            trades == bar["trades"]
            and np.array_equal(prices, now, equal_nan=True)
            and np.isclose(volume, bar["volume"].sum(), rtol=1e-12, atol=0)
        )


_SAYS = ("trade_count", "open", "high", "low", "close", "volume")


def _values(view: ColumnView, rows: npt.NDArray[np.int64]) -> list[float]:
    """Return the values of a column, NaN for null."""
    values = view.values[rows].astype(np.float64)
    if len(view.validity):
        values[~view.present(rows)] = np.nan
    found: list[float] = values.tolist()
    return found


class IntervalBars:
    """Bars of one length."""

    # Written by kernels, which the methods and the direct path call. `kernels.bar_table` describes them.
    head: npt.NDArray[np.int64]
    """The clock and the counts."""
    bars: Array
    """Bars that can still change, in no order."""
    table: npt.NDArray[np.int32]
    """A hash table of their slots, by symbol and start."""
    changed: npt.NDArray[np.int32]
    """The slots of changed bars."""
    gaps: npt.NDArray[np.int64]
    flat_gaps: npt.NDArray[np.int64]
    """The same memory in one dimension."""
    rows: Array
    """Rows to publish."""

    def __init__(self, channel: Channel, frame: FrameColumns | None, midpoints: bool) -> None:
        self.channel = channel
        self._frame = frame
        self.interval = BAR_INTERVALS[channel.name]
        self.midpoints = midpoints
        self.head = np.zeros(kernels.HEAD_WORDS, np.int64)
        self.head[[kernels.CLOCK, kernels.SEEN]] = kernels.NEVER
        self.head[kernels.GAP_OPEN] = 1  # the time before the stream is unknown
        self.gaps = np.zeros((kernels.GAPS, 2), np.int64)
        self.gaps[0] = kernels.NEVER, -kernels.NEVER
        self.flat_gaps = self.gaps.reshape(-1)
        self.rows = np.zeros(_START, kernels.ROW)
        self._make_room(np.zeros(0, kernels.BAR), _START)

    def join(self, partials: Array, first: int) -> int:
        """Join partials from `first` on; return where it stopped because bars must be rebuilt first."""
        while True:
            first = _join(
                partials,
                first,
                self.interval,
                EVERY[self.interval],
                KEPT[self.interval],
                self.midpoints,
                self.bars,
                self.table,
                self.changed,
                self.gaps,
                self.head,
                self.rows,
            )
            why = self.head[kernels.WHY]
            if why == kernels.FULL:
                self._forget()
            elif why == kernels.ROOM:
                self._make_rows()
            else:
                return first

    def touch(self, symbol: int, ts: int, recv: int) -> None:
        """Mark the bar at this time for a rebuild, because one of its trades was amended."""
        if self.head[kernels.COUNT] >= len(self.bars):
            self._forget()
        start = ts - ts % self.interval
        slot = _touch(symbol, start, recv, self.bars, self.table, self.changed, self.gaps, self.head)
        if slot >= 0 and self._was_published(symbol, start):
            self.bars["flags"][slot] |= kernels.PUBLISHED

    def _was_published(self, symbol: int, start: int) -> bool:
        """Return whether a bar that is no longer kept was published."""
        rows = self.rows[: self.head[kernels.OUT]]
        if np.any((rows["symbol"] == symbol) & (rows["ts"] == start)):
            return True
        return self._frame is not None and any(
            np.any((views["symbol"].values[:rows] == symbol) & (views["ts"].values[:rows] == start))
            for _, rows, views in self._frame.newest_first(self._frame.rows)
        )

    def see_published(self) -> None:
        """Restore the published, incomplete and changed flags from the bars frame.

        The clock was lost with the killed process, so bars that it closed by time would look open.
        """
        bars = self.bars[: self.head[kernels.COUNT]]
        published = self._last_published(bars["second"].min(initial=0))
        keys = zip(bars["symbol"].tolist(), bars["second"].tolist(), strict=True)
        for slot, key in enumerate(keys):
            flags = int(bars["flags"][slot]) & ~kernels.PUBLISHED
            if (row := published.get(key)) is not None:
                flags |= kernels.PUBLISHED | (0 if row.complete else kernels.INCOMPLETE)
                if not flags & kernels.STALE and row.says(bars[slot]):
                    flags &= ~kernels.DIRTY
            bars["flags"][slot] = flags
        _index(self.bars, self.table, self.changed, self.head)

    def _last_published(self, oldest: int) -> dict[tuple[int, int], _LastRow]:
        """Return the last row of each bar that starts at `oldest` or later, by symbol and start."""
        found: dict[tuple[int, int], _LastRow] = {}
        assert self._frame is not None
        for _, rows, views in reversed(list(self._frame.newest_first(self._frame.rows))):
            kept = np.flatnonzero(views["ts"].values[:rows] >= oldest)
            symbols, times = (views[name].values[kept].tolist() for name in ("symbol", "ts"))
            complete = views["complete"].bits(kept).tolist()
            values = zip(*(_values(views[name], kept) for name in _SAYS), strict=True)
            for symbol, ts, whole, row in zip(symbols, times, complete, values, strict=True):
                found[symbol, ts] = _LastRow(whole, row)
        return found

    def stale(self) -> npt.NDArray[np.intp]:
        """Return the bars that must be rebuilt."""
        flags = self.bars["flags"][: self.head[kernels.COUNT]]
        return np.flatnonzero(flags & kernels.STALE)

    def give_up(self, slots: Array) -> int:
        """Leave bars that cannot be rebuilt unchanged; return their number."""
        self.bars["flags"][slots] &= ~np.uint32(kernels.STALE)
        empty = slots[self.bars["trades"][slots] == 0]
        self.bars["flags"][empty] &= ~np.uint32(kernels.DIRTY)
        self.head[kernels.TO_BUILD] -= len(slots)
        _index(self.bars, self.table, self.changed, self.head)
        return len(slots)

    def build(self, slots: Array, partials: Array) -> None:
        """Rebuild bars from all partials of their symbols."""
        _build(self.interval, partials, self.bars, self.table, self.changed, slots, self.head)

    def drain(self) -> list[ColumnData]:
        """Return the rows to publish, in order, and remove them."""
        rows = self.rows[: self.head[kernels.OUT]]
        self.head[kernels.OUT] = 0
        rows = rows[np.lexsort((rows["symbol"], rows["ts"], rows["turn"]))]
        priced = rows["open"] == rows["open"]
        columns = []
        for column in self.channel.columns:
            values = rows[column.name].copy()
            if column.kind is Kind.INT:
                values = values.astype(np.int64)
            mask = priced if column.kind is Kind.FLOAT and column.nullable else None
            columns.append(ColumnData(values, None if priced.all() else mask))
        return columns

    def finish(self) -> None:
        """Publish all bars; bars whose time is not over are incomplete."""
        self._make_rows()
        _close(self.interval, self.midpoints, self.bars, self.changed, self.head, self.rows)

    def _make_rows(self) -> None:
        """Make room for all bars that can be published now."""
        needed = int(self.head[kernels.OUT] + self.head[kernels.CHANGED])
        if needed > len(self.rows):
            rows = np.zeros(2 * needed, kernels.ROW)
            rows[: len(self.rows)] = self.rows
            self.rows = rows

    def _forget(self) -> None:
        """Drop the bars that can no longer change; if these are few, make more room."""
        head, count = self.head, int(self.head[kernels.COUNT])
        bars = self.bars[:count]
        late = bars["second"] + self.interval <= head[kernels.CLOCK] - KEPT[self.interval]
        kept = bars[~late | (bars["flags"] & kernels.DIRTY != 0)]
        room = len(self.bars)
        self._make_room(kept, 2 * room if 2 * len(kept) > room else room)

    def _make_room(self, kept: Array, room: int) -> None:
        self.bars = np.zeros(room, kernels.BAR)
        self.bars[: len(kept)] = kept
        self.table = np.empty(4 * room, np.int32)
        self.changed = np.empty(room, np.int32)
        self.head[kernels.COUNT] = len(kept)
        _index(self.bars, self.table, self.changed, self.head)
