"""Rows that pass through our frames: the appended columns, and `frame()` or a tail in the other process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import polars as pl

import mdstream
from benchmarks.frames_rows import ROOMY, PreparedRows, Rows, open_frame, stamp
from benchmarks.frames_sides import ROWS, Reader, Writer


class FramesWriter(Writer):
    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        super().__init__(rows, frame, stack)
        self._rows = rows
        run, self._writer = stack.enter_context(open_frame(rows, ROOMY))
        self._place = str(run.path)

    def batches(self, size: int) -> list[Rows]:
        return self._rows.batches(size)

    def write(self, batch: Rows) -> None:
        self._writer.append(batch)

    def stamp(self, batch: Rows, nanoseconds: int) -> Rows:
        return stamp(batch, nanoseconds)

    def stored(self) -> int:
        return int(self._writer.bytes / self._writer.rows * ROWS)

    def place(self) -> str:
        return self._place


class FramesReader(Reader):
    poll_s = 0.005
    """Poll interval of a tail while no rows arrive."""

    def __init__(self, place: str) -> None:
        self._run = mdstream.attach(place)

    def last(self, count: int) -> pl.DataFrame:
        return self._run.frame("stocks.trades").tail(count)

    def follow(self) -> Iterator[pl.DataFrame]:
        return iter(self._run.tail("stocks.trades", poll_s=self.poll_s))


class EagerFramesReader(FramesReader):
    poll_s = 0.0002
