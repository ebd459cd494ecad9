"""The interface of what joins partials to bars for a feed; `workers.aggregation.bars` implements it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mdstream.frames.columns import FrameColumns
from mdstream.handoff.columns import ColumnData, PartialKind
from mdstream.streams.spec import Column, StreamSpec

Published = dict[str, list[ColumnData]]
"""Channel of bars → columns of the rows to append to it."""

TextOf = Callable[[Column, int], str]
"""The text behind a code of a column."""

Amendments = Mapping[PartialKind, Sequence[ColumnData]]
"""Corrections and cancels of a batch, as their channels have them."""


class BarBuilder(Protocol):
    """Joins the partials of successive batches to bars of every length."""

    @property
    def is_open(self) -> bool:
        """Whether there are bars that are still to be published."""

    @property
    def late(self) -> int:
        """Trades that came too late for any bar."""

    @property
    def unmatched(self) -> int:
        """Corrections and cancels of trades that are not in the trades frame."""

    def join(self, partials: npt.NDArray[np.void], before: int, amendments: Amendments) -> Published:
        """Add a batch's partials (`PARTIAL`), whose trades are in the trades frame from row `before` on."""

    def lose(self, recv_ns: int) -> None:
        """What came at this place of the stream is lost."""

    def finish(self) -> Published:
        """The stream has ended: publish whatever is open."""

    def restore(self, partials: npt.NDArray[np.void], trades: int, amendments: Amendments) -> None:
        """Get to where a killed predecessor was, which had committed so many `trades`: all that could be
        published has been.
        """


MakeBars = Callable[[StreamSpec, Mapping[str, FrameColumns], TextOf], BarBuilder]
"""Makes one for a stream, given its frames by channel and the text behind each code of a column."""
