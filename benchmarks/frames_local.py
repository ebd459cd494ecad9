"""Rows that pass without a server: through Parquet files, a pipe of pandas, or a queue of Python."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.frames_rows import PreparedRows
from benchmarks.frames_sides import (
    ROWS,
    MissingError,
    Reader,
    Writer,
    cast_columns,
    stamp_frame,
    times_to_numbers,
)

_SHM = "/dev/shm"


class ParquetWriter(Writer):
    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        super().__init__(rows, frame, stack)
        folder = tempfile.TemporaryDirectory(dir=_SHM if Path(_SHM).is_dir() else None)
        self._folder = Path(stack.enter_context(folder))
        self._count = 0

    def begin(self) -> None:
        self._count = 0
        for path in self._folder.iterdir():
            path.unlink()

    def batches(self, size: int) -> list[Any]:
        return list(self.frame.iter_slices(size))

    def write(self, batch: pl.DataFrame) -> None:
        path = self._folder / f"{self._count:06}.parquet"
        self._count += 1
        batch.write_parquet(path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)  # readers see a complete file or none

    def stamp(self, batch: pl.DataFrame, nanoseconds: int) -> Any:
        return stamp_frame(batch, nanoseconds)

    def stored(self) -> int:
        return sum(path.stat().st_size for path in self._folder.iterdir())

    def place(self) -> str:
        return str(self._folder)


class ParquetReader(Reader):
    def __init__(self, place: str) -> None:
        self._pattern = f"{place}/*.parquet"

    def last(self, count: int) -> pl.DataFrame:
        return pl.read_parquet(self._pattern).tail(count)


# -- pandas


class PandasWriter(Writer):
    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        super().__init__(rows, frame, stack)
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise MissingError("no pandas") from error
        self._concat = pd.concat
        self._ours, self._theirs = multiprocessing.get_context("spawn").Pipe()
        self._all: Any = None

    def begin(self) -> None:
        self._all = None

    def batches(self, size: int) -> list[Any]:
        return [piece.to_pandas() for piece in self.frame.iter_slices(size)]

    def write(self, batch: Any) -> None:
        if self._all is None:
            self._all = batch
        else:
            self._all = self._concat([self._all, batch], ignore_index=True).tail(ROWS)

    def stamp(self, batch: Any, nanoseconds: int) -> Any:
        return batch

    def serve(self) -> None:
        self._ours.send(self._all.tail(self._ours.recv()))

    def place(self) -> Connection:
        return self._theirs


class PandasReader(Reader):
    def __init__(self, place: Connection) -> None:
        self._pipe = place

    def last(self, count: int) -> Any:
        self._pipe.send(count)
        return self._pipe.recv()


# -- a queue


class QueueWriter(Writer):
    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        super().__init__(rows, frame, stack)
        self._queue: Any = multiprocessing.get_context("spawn").Queue()
        stack.callback(self._queue.cancel_join_thread)

    def batches(self, size: int) -> list[Any]:
        rows = times_to_numbers(self.frame).to_dicts()
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def write(self, batch: list[dict[str, Any]]) -> None:
        for row in batch:
            self._queue.put(row)

    def stamp(self, batch: list[dict[str, Any]], nanoseconds: int) -> Any:
        return [{**row, "recv_ts": nanoseconds} for row in batch]

    def place(self) -> Any:
        return self._queue


class QueueReader(Reader):
    def __init__(self, place: Any) -> None:
        self._queue = place
        self._kept: collections.deque[dict[str, Any]] = collections.deque(maxlen=ROWS)

    def last(self, count: int) -> pl.DataFrame:
        for _ in range(count):
            self._kept.append(self._queue.get())
        return cast_columns(pl.DataFrame(list(self._kept)))

    def follow(self) -> Iterator[pl.DataFrame]:
        while True:
            rows = [self._queue.get()]
            while not self._queue.empty():
                rows.append(self._queue.get())
            yield cast_columns(pl.DataFrame(rows))
