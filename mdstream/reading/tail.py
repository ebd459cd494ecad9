"""Following a frame: what is new, as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from mdstream.errors import ConfigError, LagError, NoRunError
from mdstream.reading.reader import FrameReader


class FollowedRun(Protocol):
    """What a tail needs of the run that it follows; `attach.Attachment` is one."""

    @property
    def alive(self) -> bool:
        """Whether the engine still runs."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Guards the readers and all they have mapped."""

    def parts(self, name: str) -> list[FrameReader]:
        """Return the readers of a frame. Raises `KeyError` or `NoRunError` where there is no such frame."""


@dataclass(frozen=True, slots=True)
class Follow:
    """How a frame is followed.

    `from_start` begins with the oldest row that is kept, else with the next one. `poll_s` is how often a
    tail looks while nothing comes. `max_rows` bounds the rows of one DataFrame (0: all that are there).

    `max_lag` is how many rows the tail may be behind the engine (0: as many as the frame keeps). What
    becomes of a tail that is further behind says `on_lag`: `drop` skips the oldest, and counts them
    in `missed`; `raise` raises `LagError`. The engine never waits for a reader.
    """

    from_start: bool = False
    poll_s: float = 0.001
    max_rows: int = 0
    max_lag: int = 0
    on_lag: str = "drop"

    def __post_init__(self) -> None:
        if self.on_lag not in ("drop", "raise"):
            raise ConfigError(f"on_lag: {self.on_lag!r} must be drop or raise")
        for name, value in (
            ("poll_s", self.poll_s),
            ("max_rows", self.max_rows),
            ("max_lag", self.max_lag),
        ):
            if not value >= 0:
                raise ConfigError(f"{name}: {value} is below 0")


class Tail:
    """New rows of a frame as they come, with `for` or `async for`, until the engine ends.

    `missed` counts rows that were dropped before they were read.
    """

    _CHECK_S = 0.5

    # Written by `poll` and the iteration only.
    missed: int
    _next: dict[FrameReader, int]
    """The next row of each part of the frame."""
    _looked: float
    """When parts were last searched for."""
    _checked: float
    """When the engine was last checked."""

    def __init__(
        self,
        run: FollowedRun,
        name: str,
        follow: Follow,
        narrow: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> None:
        self.missed = 0
        self._run = run
        self._name = name
        self._follow = follow
        self._narrow = narrow
        with run.lock:
            parts = run.parts(name)
            start = follow.from_start
            self._next = {part: part.first_row if start else part.rows for part in parts}
        self._many = any("@" in part.name for part in parts)
        self._looked = self._checked = time.monotonic()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        while True:
            new = self.poll()
            if new is not None:
                yield new
            elif self._ended():
                return
            else:
                time.sleep(self._follow.poll_s)

    async def __aiter__(self) -> AsyncIterator[pl.DataFrame]:
        while True:
            new = self.poll()
            if new is not None:
                yield new
            elif self._ended():
                return
            else:
                await asyncio.sleep(self._follow.poll_s)

    def poll(self) -> pl.DataFrame | None:
        """What is new since the last call, without waiting; None if nothing is."""
        self._look_for_parts()
        pieces = []
        for part, row in self._next.items():
            if part.rows > row:
                with self._run.lock:
                    frame = labelled(part, self._read(part, row))
                if self._narrow is not None:
                    frame = self._narrow(frame)
                if frame.height:
                    pieces.append(frame)
        return pl.concat(pieces, rechunk=False) if pieces else None

    def _read(self, part: FrameReader, row: int) -> pl.DataFrame:
        follow = self._follow
        behind = part.rows - row
        if follow.max_lag and behind > follow.max_lag:
            if follow.on_lag == "raise":
                raise LagError(f"{self._name}: {behind} rows behind, and {follow.max_lag} allowed")
            skipped = behind - follow.max_lag
            self.missed += skipped
            row += skipped
        first, frame = part.read(row, row + follow.max_rows if follow.max_rows else None)
        self.missed += first - row
        self._next[part] = first + frame.height
        return frame

    def _look_for_parts(self) -> None:
        """A frame that many processes write has a part more when one more has begun."""
        now = time.monotonic()
        if self._many and now - self._looked >= self._CHECK_S:
            self._looked = now
            # Where the run has ended, what is mapped can still be read.
            with contextlib.suppress(NoRunError, KeyError), self._run.lock:
                for part in self._run.parts(self._name):
                    self._next.setdefault(part, 0)

    def _ended(self) -> bool:
        if any(part.rows > row for part, row in self._next.items()):
            return False
        if all(part.head.closed for part in self._next):
            return True
        now = time.monotonic()
        if now - self._checked < self._CHECK_S:
            return False
        self._checked = now
        return not self._run.alive


def labelled(reader: FrameReader, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of one part of a frame, told apart by the stream they come from."""
    _, _, stream = reader.name.partition("@")
    if not stream:
        return frame
    label = pl.lit(stream).cast(reader.streams()).alias("stream")
    return frame.select(label, pl.all())
