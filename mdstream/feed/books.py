"""The current order books: `<stream>.books`, built from resets and changes of levels.

A worker reduces each batch to its net changes (`workers.aggregation.books`). They change the ladders, which
have all levels of all books (`workers.aggregation.ladders`). The best levels go to a keyed frame with one
row for each symbol. The direct path does the same with its batches, in machine code.

The service sends a reset after each subscription; `streams.books` says when a book is complete. Beyond
`MOST_LEVELS` of a side the worst levels are dropped, and counted. From then on the side is known only up to
the best of them, its edge, and the book is complete only while its best levels are better than that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mdstream.frames.book_levels import BookLevels, LevelColumns
from mdstream.frames.direct_path import BookTargets
from mdstream.frames.keyed_frame import KeyedFrameWriter
from mdstream.frames.share import Share
from mdstream.handoff.columns import ColumnData
from mdstream.streams.books import BOOK_DEPTH, books_frame_channel
from mdstream.streams.spec import Channel

_COMPLETE = books_frame_channel().at["complete"]
_ASK = "ask"


class Books:
    """The books of one stream. Used only in the feed's process."""

    # Written by the direct path, too.
    targets: BookTargets

    def __init__(self, folder: Path, channel: Channel, share: Share, ladders: BookLevels) -> None:
        frame = KeyedFrameWriter(folder, books_frame_channel().columns, share, levels=BOOK_DEPTH)
        self.targets = BookTargets(frame, ladders)
        self.sides = channel.column("side").dictionary
        """Name of the dictionary of the sides."""
        self._at = channel.at

    @property
    def dropped(self) -> int:
        """Dropped levels, including those of predecessors."""
        return self.targets.ladders.dropped

    @property
    def untracked(self) -> int:
        """Updates of symbols for which the keyed frame has no room."""
        return self.targets.frame.untracked

    def lose(self, symbols: Collection[int] | None = None) -> None:
        """Note that the books of these symbols (None: all) are incomplete until they are reset.

        `retract` shows it, after the update of the same batch, so that readers see one state or the other.
        """
        self.targets.ladders.lose(symbols)

    def retract(self) -> None:
        """Show that books are incomplete that lost something; those of a killed feed are, too."""
        frame, ladders = self.targets
        shown = frame.find(_COMPLETE, 1)
        rows = shown[~ladders.are_complete(shown)]
        frame.update(rows, [(_COMPLETE, ColumnData(np.zeros(len(rows), np.int64)))])

    def update(
        self, columns: Sequence[ColumnData], sides: Sequence[str], lost: Collection[int] = ()
    ) -> None:
        """Apply a batch's net changes (`aggregation.books`); `sides` has the name of a side by its code.

        The books of `lost` symbols are incomplete afterwards, even if they were reset.
        """
        ladders, at = self.targets.ladders, self._at
        ladders.note_sides([name == _ASK for name in sides])
        ladders.update(LevelColumns(*(columns[at[name]] for name in LevelColumns._fields)))
        self.lose(lost)
        symbols = columns[at["symbol"]].values.astype(np.int64)
        changed, last = np.unique(symbols[::-1], return_index=True)
        last = len(symbols) - 1 - last
        self._show(changed, *(ColumnData(columns[at[name]].values[last]) for name in ("ts", "recv_ts")))

    def close(self) -> None:
        self.targets.frame.close()

    def _show(self, symbols: npt.NDArray[np.int64], ts: ColumnData, recv_ts: ColumnData) -> None:
        """Write the best levels of `symbols` to the frame."""
        best = self.targets.ladders.read_best(symbols)
        data = [ts, recv_ts, ColumnData(best.complete)]
        for counts, levels in zip(best.counts, best.levels, strict=True):
            data.append(ColumnData(counts))
            for level, (prices, sizes) in enumerate(levels):
                there = counts > level
                data += [ColumnData(prices, there), ColumnData(sizes, there)]
        self.targets.frame.update(symbols, list(enumerate(data, 1)))
