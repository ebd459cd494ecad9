"""The interface of ladders: the levels of all order books of a stream (`workers.aggregation.ladders`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mdstream.handoff.columns import ColumnData


class Best(NamedTuple):
    """What readers see of some books. The last dimension is that of the books."""

    complete: npt.NDArray[np.int64]
    """1 if the best levels are surely these."""
    counts: npt.NDArray[np.int64]
    """Number of levels, by side: bids, then asks."""
    levels: npt.NDArray[np.float64]
    """By side, level from the best one on, and price or size."""


class LevelColumns(NamedTuple):
    """The columns of changes of levels, one row for each."""

    symbol: ColumnData
    side: ColumnData
    price: ColumnData
    size: ColumnData
    reset: ColumnData


class BookLevels(Protocol):
    """The levels of all books of one stream. Used only in the feed's process."""

    @property
    def dropped(self) -> int:
        """Levels that were dropped because a side had too many."""

    def note_sides(self, asks: Iterable[bool]) -> None:
        """Note, for each code of the column `side`, whether it stands for asks."""

    def update(self, columns: LevelColumns) -> None:
        """Apply the net changes of a batch (`workers.aggregation.books`)."""

    def lose(self, symbols: Collection[int] | None) -> None:
        """Note that the books of `symbols` (None: all) are incomplete until they are reset."""

    def are_complete(self, symbols: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which books have every change since their last reset."""

    def read_best(self, symbols: npt.NDArray[np.int64]) -> Best:
        """Return what readers see of the books of `symbols`, all of which were updated before."""
