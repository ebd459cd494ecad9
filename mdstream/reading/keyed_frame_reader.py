"""Reading a keyed frame: a row a symbol, each as it was at one moment (`frames.keyed_frame` says how)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mdstream.errors import NoRunError
from mdstream.frames.chunk import Chunk
from mdstream.frames.head import Head
from mdstream.frames.layout import arrow_schema, columns_of, levels_in, read_schema
from mdstream.reading.reader import Categories, refresh, to_polars
from mdstream.streams.spec import Column
from mdstream.streams.storage import DTYPE

_TORN_TIMEOUT_S = 2.0
"""How long a reader waits for a row that is being written, before it leaves it out."""


class KeyedFrameReader:
    """Reads a keyed frame: each row as it was at one moment."""

    # Written here alone: the chunk that is mapped.
    _number: int
    _chunk: Chunk | None

    def __init__(self, folder: Path, categories: dict[str, Categories]) -> None:
        try:
            self.head = Head(folder, write=False)
        except FileNotFoundError as error:
            raise NoRunError(f"no frame at {folder}: its run has ended") from error
        self.name = folder.name
        self._run = folder.parent.parent
        self._categories = categories
        schema = read_schema(folder)
        self._columns = columns_of(schema)
        self._levels = levels_in(schema)
        self._number = -1
        self._chunk = None

    @property
    def rows(self) -> int:
        """How many symbols there may be."""
        return self.head.rows

    def read(self) -> pl.DataFrame:
        """All rows that ever had something, copied, without versions; of order books a row a level."""
        batch = self._copy()
        refresh(self._categories, batch.schema, self._run, self.name.partition(".")[0])
        frame = to_polars(batch, self._categories)
        return _by_level(frame, self._levels) if self._levels else frame

    def _copy(self) -> pa.RecordBatch:
        columns = self._columns[:-1]
        rows, chunk = self._current()
        if chunk is None or not rows:
            return _batch(columns, [np.empty(0, DTYPE[c.kind]) for c in columns], [None] * len(columns))
        views, versions = chunk.views, chunk.views[-1].values
        before = versions[:rows].copy()
        every = np.arange(rows)
        values = [view.values[:rows].copy() for view in views[:-1]]
        masks = [
            view.present(every) if column.nullable else None
            for view, column in zip(views[:-1], columns, strict=True)
        ]
        torn = np.flatnonzero((versions[:rows] != before) | (before & np.uint64(1)).astype(np.bool_))
        deadline = time.monotonic() + _TORN_TIMEOUT_S
        while len(torn) and time.monotonic() < deadline:
            again = versions[torn]
            for view, copy, mask in zip(views[:-1], values, masks, strict=True):
                copy[torn] = view.values[torn]
                if mask is not None:
                    mask[torn] = view.present(torn)
            whole = (versions[torn] == again) & ~(again & np.uint64(1)).astype(np.bool_)
            before[torn[whole]] = again[whole]
            torn = torn[~whole]
        kept = before != 0
        kept[torn] = False
        return _batch(columns, [v[kept] for v in values], [None if m is None else m[kept] for m in masks])

    def _current(self) -> tuple[int, Chunk | None]:
        """The rows there are, and the chunk that holds them."""
        while True:
            rows, number = self.head.rows, self.head.end - 1
            if number < 0:
                return 0, None
            if number != self._number:
                entry = self.head.entry(number)
                try:
                    path = self.head.chunk_path(number)
                    self._chunk = Chunk(path, self._columns, 0, entry.capacity, write=False)
                except FileNotFoundError:
                    if not self.head.folder.exists():
                        raise NoRunError(f"{self.head.folder.name}: its run has ended") from None
                    continue
                self._number = number
            return rows, self._chunk


def _batch(columns: Sequence[Column], values: Any, masks: Any) -> pa.RecordBatch:
    schema = arrow_schema(columns)
    arrays = []
    for field, data, mask in zip(schema, values, masks, strict=True):
        bits = None if mask is None or mask.all() else pa.py_buffer(np.packbits(mask, bitorder="little"))
        arrays.append(
            pa.Array.from_buffers(field.type, len(data), [bits, pa.py_buffer(data)], -1 if bits else 0)
        )
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _by_level(frame: pl.DataFrame, levels: int) -> pl.DataFrame:
    """Books in a row each, as a row a level, from the best one (1) on."""
    sides = [f"{side}_{what}" for side in ("bid", "ask") for what in ("price", "size")]
    pieces = [
        frame.select(
            "symbol",
            pl.lit(level, pl.Int64).alias("level"),
            *(pl.col(f"{name}_{level}").alias(name) for name in sides),
            "ts",
            "recv_ts",
            pl.col("complete").cast(pl.Boolean),
            "bid_levels",
            "ask_levels",
            pl.int_range(pl.len()).alias("_row"),
        )
        for level in range(1, levels + 1)
    ]
    there = pl.col("bid_price").is_not_null() | pl.col("ask_price").is_not_null()
    return pl.concat(pieces).filter(there).sort("_row", "level").drop("_row")
