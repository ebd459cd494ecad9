"""The levels of all order books of a stream, in arrays that kernels change (`kernels.ladder`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.frames.book_levels import Best, LevelColumns
from mdstream.handoff.columns import ColumnData
from mdstream.limits import MOST_LEVELS
from mdstream.streams.books import BOOK_DEPTH
from workers.kernels import ladder
from workers.python_mode import either_way

_update = either_way(ladder.update)
_read_best = either_way(ladder.read_best)

_TYPES = (np.uint32, np.uint16, np.float64, np.float64, np.bool_)
_START_SYMBOLS = 64
_START_LEVELS = 4096


class Ladders:
    """The `BookLevels` of one stream (`mdstream.frames`). The direct path changes the arrays, too."""

    # Written here, and by kernels. `kernels.ladder` describes them.
    sides: npt.NDArray[np.int64]
    edges: npt.NDArray[np.float64]
    complete: npt.NDArray[np.uint8]
    totals: npt.NDArray[np.int64]
    prices: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.float64]
    # Written only here.
    asks: npt.NDArray[np.uint8]
    """By code of the column `side`: 1 for asks. The codes that are not known yet are beyond its end."""

    def __init__(self, dropped: int = 0) -> None:
        self.sides = np.zeros(0, np.int64)
        self.edges = np.zeros(0)
        self.complete = np.zeros(0, np.uint8)
        self.asks = np.zeros(0, np.uint8)
        self._make_room_for_symbols(_START_SYMBOLS)
        self.prices, self.sizes = np.zeros((2, _START_LEVELS))
        self.totals = np.array([0, dropped, MOST_LEVELS], np.int64)

    @property
    def dropped(self) -> int:
        return int(self.totals[ladder.DROPPED])

    def note_sides(self, asks: Iterable[bool]) -> None:
        known = np.array([*asks], np.uint8)
        if len(known) != len(self.asks):
            self.asks = known

    def update(self, columns: LevelColumns) -> None:
        # Copies, because memory that is only read would be another type, and compile another kernel.
        copies: list[npt.NDArray[Any]] = [
            column.values.astype(dtype) for column, dtype in zip(columns, _TYPES, strict=True)
        ]
        symbols, sides, prices, sizes, resets = copies
        self._make_room_for_symbols(int(symbols.max()) + 1)
        valid = prices == prices
        if columns.price.mask is not None:
            valid &= columns.price.mask
        rows = symbols, sides, prices, sizes, resets, valid, self.asks
        books = self.sides, self.edges, self.complete, self.totals
        while lacking := _update(*rows, *books, self.prices, self.sizes):
            self._make_room_for_levels(lacking)

    def lose(self, symbols: Collection[int] | None) -> None:
        if symbols is None:
            self.complete[:] = 0
        else:
            self.complete[[symbol for symbol in symbols if symbol < len(self.complete)]] = 0

    def are_complete(self, symbols: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        known = symbols < len(self.complete)
        known[known] = self.complete[symbols[known]] != 0
        return known

    def read_best(self, symbols: npt.NDArray[np.int64]) -> Best:
        count = len(symbols)
        best = Best(
            np.zeros(count, np.int64), np.zeros((2, count), np.int64), np.zeros((2, BOOK_DEPTH, 2, count))
        )
        _read_best(symbols, self.sides, self.edges, self.complete, self.prices, self.sizes, *best)
        return best

    def _make_room_for_symbols(self, symbols: int) -> None:
        if symbols <= (known := len(self.complete)):
            return
        symbols = max(symbols, 2 * known)
        self.sides = _extend(self.sides, 2 * symbols * ladder.SIDE_WIDTH)
        self.edges = _extend(self.edges, 2 * symbols, np.inf)
        self.complete = _extend(self.complete, symbols)

    def _make_room_for_levels(self, lacking: int) -> None:
        """Copy all pieces into larger arrays, close together."""
        sides = self.sides.reshape(-1, ladder.SIDE_WIDTH)
        rooms = sides[:, ladder.ROOM]
        used = int(rooms.sum())
        prices, sizes = np.zeros((2, 2 * (used + lacking)))
        ends = np.cumsum(rooms)
        for side in np.flatnonzero(rooms).tolist():
            start, count, room, _ = sides[side].tolist()
            to = int(ends[side]) - room
            prices[to : to + count] = self.prices[start : start + count]
            sizes[to : to + count] = self.sizes[start : start + count]
            sides[side, ladder.START] = to
        self.prices, self.sizes = prices, sizes
        self.totals[ladder.USED] = used


def warm() -> None:
    """Load or compile the kernels."""
    ladders = Ladders()
    ladders.note_sides([False, True])
    ladders.update(LevelColumns(*(ColumnData(np.zeros(1, dtype)) for dtype in _TYPES)))
    ladders.read_best(np.zeros(1, np.int64))


def _extend(array: npt.NDArray[Any], length: int, value: float = 0) -> npt.NDArray[Any]:
    longer = np.full(length, value, array.dtype)
    longer[: len(array)] = array
    return longer
