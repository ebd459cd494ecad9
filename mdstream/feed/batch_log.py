"""`telemetry.batches` of one stream: one row for each committed batch, written many at a time."""

from __future__ import annotations

import time
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
_WAIT_S = 1.0
"""How long fewer rows wait: writing them costs more than a small batch."""
_MOST_WAITING = 4096
"""Most rows that wait for room in shared memory; beyond that the oldest are dropped."""

Row = tuple[int, ...]
"""One row, in the order of the frame's columns."""


class BatchLog:
    """The writer of `telemetry.batches`."""

    # Written only here: rows that are not in the frame yet, and when some were written last.
    _waiting: list[Row]
    _written_at: float

    def __init__(self, folder: Path, limits: Limits, share: Share, state: FeedState) -> None:
        self._state = state
        self._frame = FrameWriter(folder, BATCHES.columns, limits, share)
        self._waiting = []
        self._written_at = time.monotonic()

    def add(self, row: Row) -> None:
        """Add a row; it is in the frame after the next `flush`, or one a second later."""
        self._waiting.append(row)
        if len(self._waiting) >= _TOGETHER:
            self._write()

    def flush(self) -> None:
        """Write the waiting rows if they wait for a second."""
        if time.monotonic() - self._written_at >= _WAIT_S:
            self._write()

    def _write(self) -> None:
        """Write the waiting rows. If there is no room, they keep waiting, up to a limit."""
        self._written_at = time.monotonic()
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
        """Write the waiting rows, and close the frame."""
        self._write()
        self._frame.close()
