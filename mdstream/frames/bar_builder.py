"""The interface of bar builders, which join partials to bars (`workers.aggregation.bars`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mdstream.handoff.columns import ColumnData, PartialKind
from mdstream.streams.spec import Column

Published = dict[str, list[ColumnData]]
"""Channel of bars → columns of the rows to append."""

TextOf = Callable[[Column, int], str]
"""Returns the text that a code of a column stands for."""

Amendments = Mapping[PartialKind, Sequence[ColumnData]]
"""Corrections and cancels of a batch, as columns of their channels."""


class BarBuilder(Protocol):
    """Joins the partials of successive batches to bars of every length."""

    @property
    def is_open(self) -> bool:
        """Whether some bars are not published yet."""

    @property
    def late(self) -> int:
        """Trades that arrived too late for any bar."""

    @property
    def unmatched(self) -> int:
        """Corrections and cancels of trades that are not in the trades frame."""

    def join(self, partials: npt.NDArray[np.void], before: int, amendments: Amendments) -> Published:
        """Add a batch's partials (rows of `PARTIAL`); return the rows of bars to publish.

        `before` is the number of the batch's first row in the trades frame.
        """

    def resume(self, partials: npt.NDArray[np.void], firsts: Sequence[int], before: int) -> None:
        """Join the rest of partials to the bars of each length, from a number for each length on."""

    def drain(self) -> Published:
        """Return the rows of bars to publish that partials joined elsewhere have made."""

    def mark_lost_batch(self, recv_ns: int) -> None:
        """Note that a batch is missing from the stream here, at `recv_ns`."""

    def finish(self) -> Published:
        """Return the rows of all open bars: the stream has ended."""

    def restore(self, partials: npt.NDArray[np.void], trades: int, amendments: Amendments) -> None:
        """Restore the open bars of a killed predecessor, which had committed `trades` rows of trades.

        Bars that it could publish count as published.
        """
