"""`telemetry.batches` of one stream: a row a committed batch, many rows written together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdstream.errors import NoSpaceError
from mdstream.frames.share import Share
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.telemetry.schema import BATCHES
from mdstream.telemetry.state import FeedState

_TOGETHER = 256
"""Rows that are written together."""
_MOST_WAITING = 4096
"""Rows that may wait for room in shared memory; beyond that the oldest are dropped."""

Row = tuple[int, ...]
"""One row, in the order of the frame's columns."""


class BatchLog:
    """The writer of that frame."""

    # Written here alone: rows that are not in the frame yet.
    _waiting: list[Row]

    def __init__(self, folder: Path, limits: Limits, share: Share, state: FeedState) -> None:
        self._state = state
        self._frame = FrameWriter(folder, BATCHES.columns, limits, share)
        self._waiting = []

    def add(self, row: Row) -> None:
        """Note a batch; its row is in the frame after the next `flush`."""
        self._waiting.append(row)
        if len(self._waiting) >= _TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait. Those that find no room wait on, up to a limit."""
        if not self._waiting:
            return
        values = np.array(self._waiting, np.int64)
        try:
            self._frame.append([ColumnData(column) for column in values.T])
        except NoSpaceError:
            self._state["batch_rows_lost"] += max(0, len(self._waiting) - _MOST_WAITING)
            del self._waiting[:-_MOST_WAITING]
        else:
            self._waiting.clear()

    def close(self) -> None:
        """Write what waits, and close the frame."""
        self.flush()
        self._frame.close()
