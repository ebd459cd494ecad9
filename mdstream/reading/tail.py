"""Following a frame: a tail yields the new rows as they arrive."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, SupportsIndex, TypedDict

import polars as pl

from mdstream.errors import ConfigError, LagError, NoRunError
from mdstream.reading.arguments import require
from mdstream.reading.filters import to_seconds
from mdstream.reading.reader import FrameReader


class FollowedRun(Protocol):
    """What a tail needs of the run that it follows; `attach.Attachment` implements it."""

    @property
    def alive(self) -> bool:
        """Whether the engine still runs."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Guards the readers and all they have mapped."""

    def parts(self, name: str) -> list[FrameReader]:
        """Return the readers of a frame that exist.

        Raises `KeyError` or `NoRunError` if there is no such frame and will be none.
        """


_ABSENT_S = 0.01
"""How often a tail looks for a frame that does not exist yet."""


class TailArguments(TypedDict, total=False):
    """The arguments of `Attachment.tail`, which describes them."""

    symbols: str | Sequence[str] | None
    from_start: bool
    poll_s: float
    max_rows: int
    max_lag: int
    on_lag: Literal["drop", "raise"]
    since: None


@dataclass(frozen=True, slots=True)
class TailOptions:
    """How to follow a frame; `Attachment.tail` describes each option."""

    from_start: bool = False
    poll_s: float = 0.001
    max_rows: int = 0
    max_lag: int = 0
    on_lag: str = "drop"

    def __post_init__(self) -> None:
        if self.on_lag not in ("drop", "raise"):
            raise ConfigError(f"on_lag: {self.on_lag!r} must be drop or raise")
        require(bool, from_start=self.from_start)
        object.__setattr__(self, "poll_s", to_seconds(self.poll_s, "poll_s"))  # the class is frozen
        for name in ("max_rows", "max_lag"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, SupportsIndex):
                raise ConfigError(f"{name}: {value!r} is not a number of rows")
            if int(value) < 0:
                raise ConfigError(f"{name}: {value!r} is negative; give 0 or more rows")


class Tail:
    """An iterator over the new rows of a frame; `Attachment.tail` returns it.

    `for` and `async for` yield DataFrames with the frame's columns, at least one row each. They end when
    the engine ends. `poll` returns new rows without waiting. One thread or task at a time may use a tail.

        tail = run.tail("stocks.trades", symbols="AAPL")
        for new in tail:
            print(new["price"].mean(), tail.missed)
    """

    _CHECK_S = 0.5

    # Written by `poll` and the iteration alone.
    missed: int
    """Rows that were dropped before this tail read them."""
    _next: dict[FrameReader, int]
    """The next row to read of each part of the frame."""
    _has_all: bool
    """Whether the frame has no further parts."""
    _searched_at: float
    """When new parts were last searched for."""
    _checked_at: float
    """When the engine was last checked."""

    def __init__(
        self,
        run: FollowedRun,
        name: str,
        options: TailOptions,
        select: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> None:
        self.missed = 0
        self._run = run
        self._name = name
        self._options = options
        self._select = select
        with run.lock:
            parts = run.parts(name)
            start = options.from_start
            self._next = {part: part.first_row if start else part.rows for part in parts}
        self._has_all = len(parts) == 1 and "@" not in parts[0].name
        self._searched_at = self._checked_at = time.monotonic()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        while True:
            new = self.poll()
            if new is not None:
                yield new
            elif self.has_ended():
                return
            else:
                time.sleep(self._options.poll_s)

    async def __aiter__(self) -> AsyncIterator[pl.DataFrame]:
        while True:
            new = self.poll()
            if new is not None:
                yield new
            elif self.has_ended():
                return
            else:
                await asyncio.sleep(self._options.poll_s)

    def poll(self) -> pl.DataFrame | None:
        """Return the rows that are new since the last call, without waiting; None if there are none.

        Raises `LagError` if the tail is more than `max_lag` rows behind and `on_lag` is "raise".
        """
        self._find_new_parts()
        pieces = []
        for part, row in self._next.items():
            if part.rows > row:
                with self._run.lock:
                    frame = label_rows(part, self._read(part, row))
                if self._select is not None:
                    frame = self._select(frame)
                if frame.height:
                    pieces.append(frame)
        return pl.concat(pieces, rechunk=False) if pieces else None

    def _read(self, part: FrameReader, row: int) -> pl.DataFrame:
        options = self._options
        behind = part.rows - row
        if options.max_lag and behind > options.max_lag:
            if options.on_lag == "raise":
                raise LagError(f"{self._name}: {behind} rows behind, and {options.max_lag} allowed")
            skipped = behind - options.max_lag
            self.missed += skipped
            row += skipped
        first, frame = part.read(row, row + options.max_rows if options.max_rows else None)
        self.missed += first - row
        self._next[part] = first + frame.height
        return frame

    def _find_new_parts(self) -> None:
        """Now and then, add parts that feeds have created; a frame that does not exist yet has none."""
        now = time.monotonic()
        if not self._has_all and now - self._searched_at >= (self._CHECK_S if self._next else _ABSENT_S):
            self._searched_at = now
            # If the run has ended, the mapped parts can still be read.
            with contextlib.suppress(NoRunError, KeyError), self._run.lock:
                for part in self._run.parts(self._name):
                    self._next.setdefault(part, 0)
                    self._has_all = "@" not in part.name

    def has_ended(self) -> bool:
        """Return whether all rows were read and no more will come."""
        if any(part.rows > row for part, row in self._next.items()):
            return False
        if self._next and all(part.head.closed for part in self._next):
            return True
        now = time.monotonic()
        if now - self._checked_at < self._CHECK_S:
            return False
        self._checked_at = now
        return not self._run.alive


class Tails:
    """An iterator over the new rows of several frames; `Attachment.tail` returns it for a list of names.

    Each step yields the name of a frame and a DataFrame of its new rows. It ends when the engine ends.
    """

    def __init__(self, tails: Mapping[str, Tail], poll_s: float) -> None:
        self._tails = tails
        self._poll_s = poll_s

    @property
    def missed(self) -> int:
        """Rows that were dropped before they were read, of all frames."""
        return sum(tail.missed for tail in self._tails.values())

    def __iter__(self) -> Iterator[tuple[str, pl.DataFrame]]:
        while True:
            new = self.poll()
            yield from new.items()
            if not new:
                if self._has_ended():
                    return
                time.sleep(self._poll_s)

    async def __aiter__(self) -> AsyncIterator[tuple[str, pl.DataFrame]]:
        while True:
            new = self.poll()
            for item in new.items():
                yield item
            if not new:
                if self._has_ended():
                    return
                await asyncio.sleep(self._poll_s)

    def poll(self) -> dict[str, pl.DataFrame]:
        """Return the rows that are new since the last call, by frame, without waiting."""
        found = {name: tail.poll() for name, tail in self._tails.items()}
        return {name: new for name, new in found.items() if new is not None}

    def _has_ended(self) -> bool:
        return all(tail.has_ended() for tail in self._tails.values())


def label_rows(reader: FrameReader, frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with the column `stream` in front if it is one feed's part of a frame."""
    _, _, stream = reader.name.partition("@")
    if not stream:
        return frame
    labels = reader.categories.open("streams", pl.UInt16)
    return frame.select(pl.lit(stream).cast(labels.dtype).alias("stream"), pl.all())
