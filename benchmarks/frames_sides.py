"""The two sides of a way to pass rows to another process: a writer, and a reader in that process."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import polars as pl

from benchmarks.frames_rows import PreparedRows

ROWS = 100_000
BATCH = 1_000
COMMIT = 10
"""Rows per commit in `tail`."""
_TIMES = ("ts", "recv_ts")
_KINDS: dict[str, Any] = {"price": pl.Float64, "size": pl.Int64, "id": pl.UInt64}


def cast_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with the columns cast to the types of the result."""
    times = [pl.col(c).cast(pl.Int64).cast(pl.Datetime("ns", "UTC")) for c in _TIMES]
    return frame.with_columns(*times, *(pl.col(c).cast(t) for c, t in _KINDS.items()))


def times_to_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with times as integers."""
    return frame.with_columns(pl.col(*_TIMES).to_physical())


def stamp_frame(batch: pl.DataFrame, nanoseconds: int) -> pl.DataFrame:
    """Return a batch with a receive time."""
    return batch.with_columns(recv_ts=pl.lit(nanoseconds).cast(batch.schema["recv_ts"]))


class MissingError(Exception):
    """An alternative is not installed."""


class Writer(ABC):
    """The writing side of a subject."""

    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        self.frame = frame
        """The rows as a DataFrame, from which the alternatives convert theirs."""

    @abstractmethod
    def batches(self, size: int) -> list[Any]:
        """Return the rows in batches of `size`, in the format of `write`."""

    @abstractmethod
    def write(self, batch: Any) -> None: ...

    @abstractmethod
    def stamp(self, batch: Any, nanoseconds: int) -> Any:
        """Return a batch with a receive time."""

    def begin(self) -> None:
        """Prepare for a turn."""
        return

    def serve(self) -> None:
        """Do what the writer has to do for a read."""
        return

    def stored(self) -> int | None:
        """Return the bytes that all rows occupy; None if that is not known."""
        return None

    def place(self) -> Any:
        """Return the argument of the reader's constructor."""
        return None

    def version(self) -> str:
        """Return the versions of the software that it uses."""
        return ""


class Reader(ABC):
    """The reading side of a subject, in a process of its own."""

    @abstractmethod
    def last(self, count: int) -> Any:
        """Return the last `count` rows as a DataFrame of Polars or pandas."""

    def follow(self) -> Iterator[pl.DataFrame]:
        """Yield new rows as they arrive."""
        raise NotImplementedError
