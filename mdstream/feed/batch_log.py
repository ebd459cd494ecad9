"""`telemetry.batches` of one stream: one row for each committed batch, written many at a time.

The kernel of the direct path adds its rows itself (`workers.kernels.direct_count`).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mdstream.errors import NoSpaceError
from mdstream.frames.share import Share
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.telemetry.schema import BATCHES
from mdstream.telemetry.state import FeedState

_TOGETHER = 256
"""Rows that are written together."""
_WAIT_S = 1.0
"""How long fewer rows wait: writing them costs more than a small batch."""
_MOST_WAITING = 4096
"""Most rows that wait for room in shared memory; beyond that the oldest are dropped."""

Row = tuple[int, ...]
"""One row, in the order of the frame's columns."""


class BatchLog:
    """The writer of `telemetry.batches`."""

    # Written here and by the direct path:
    rows: npt.NDArray[np.int64]
    """Rows that are not in the frame yet, and room for more."""
    waiting: npt.NDArray[np.int64]
    """How many there are, as one item."""
    # Written only here:
    _written_at: float
    """When rows were written last, on the monotonic clock."""

    def __init__(self, folder: Path, limits: Limits, share: Share, state: FeedState) -> None:
        self._state = state
        self._frame = FrameWriter(folder, BATCHES.columns, limits, share)
        self.rows = np.zeros((_MOST_WAITING + _TOGETHER, len(BATCHES.columns)), np.int64)
        self.waiting = np.zeros(1, np.int64)
        self._written_at = time.monotonic()

    def add(self, row: Row) -> None:
        """Add a row; it is in the frame after the next `flush`, or one a second later."""
        if self.waiting[0] == len(self.rows):
            self._write()
        self.rows[self.waiting[0]] = row
        self.waiting[0] += 1
        if self.waiting[0] >= _TOGETHER:
            self._write()

    def flush(self) -> None:
        """Write the waiting rows if they are many, or wait for a second."""
        if self.waiting[0] >= _TOGETHER or time.monotonic() - self._written_at >= _WAIT_S:
            self._write()

    def _write(self) -> None:
        """Write the waiting rows. If there is no room, they keep waiting, up to a limit."""
        self._written_at = time.monotonic()
        count = int(self.waiting[0])
        if not count:
            return
        try:
            self._frame.append([ColumnData(column) for column in self.rows[:count].T])
        except NoSpaceError:
            if (lost := count - _MOST_WAITING) > 0:
                self._state["batch_rows_lost"] += lost
                self.rows[:_MOST_WAITING] = self.rows[lost:count].copy()
                self.waiting[0] = _MOST_WAITING
        else:
            self.waiting[0] = 0

    def close(self) -> None:
        """Write the waiting rows, and close the frame."""
        self._write()
        self._frame.close()
