"""Reading a keyed frame: each row as it was at one moment (see `frames.keyed_frame`)."""

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
from mdstream.frames.layout import arrow_schema, columns_of, levels_in
from mdstream.reading.categories import StreamCategories
from mdstream.reading.reader import empty_frame, open_frame, to_polars
from mdstream.streams.spec import Column
from mdstream.streams.storage import DTYPE

_TORN_TIMEOUT_S = 2.0
"""How long a reader waits for a row that is being written before it leaves the row out."""


class KeyedFrameReader:
    """The reader of one keyed frame."""

    # Written by the reader, under the attachment's lock.
    _chunk: Chunk | None
    """The chunk that is mapped."""
    _number: int
    """Its number; -1 if none is mapped."""
    _mapped: int
    """Its rows when it was last read."""

    def __init__(self, folder: Path, categories: StreamCategories) -> None:
        self.head, schema = open_frame(folder)
        self._categories = categories
        self._columns = columns_of(schema)
        self._levels = levels_in(schema)
        self._number = -1
        self._mapped = 0
        self._chunk = None

    @property
    def rows(self) -> int:
        """Rows that exist, including those of symbols without data."""
        return self.head.rows

    def map(self) -> None:
        """Map all rows, so that they can be read after the end of the run."""
        self._map_chunk()
        self._categories.refresh(arrow_schema(self._columns))

    def read(self) -> pl.DataFrame:
        """Return a copy of all rows that have data, without their versions; books with a row per level."""
        batch = self._copy()
        self._categories.refresh(batch.schema)
        frame = to_polars([batch], self._categories)
        return _split_levels(frame, self._levels) if self._levels else frame

    def _copy(self) -> pa.RecordBatch:
        columns = self._columns[:-1]
        rows, chunk = self._map_chunk()
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

    def _map_chunk(self) -> tuple[int, Chunk | None]:
        """Return how many rows there are, and the chunk that holds them."""
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
                    if self.head.folder.exists():
                        continue  # the writer replaced it meanwhile
                    if self._chunk is None:
                        raise NoRunError(f"{self.head.folder.name}: its run has ended") from None
                    return self._mapped, self._chunk  # what was mapped before the run ended
                self._number = number
            self._mapped = rows
            return rows, self._chunk


def empty_keyed_frame(schema: pa.Schema, categories: StreamCategories) -> pl.DataFrame:
    """Return a DataFrame without rows that has the columns that readers of `schema` get."""
    frame = empty_frame(pa.schema(list(schema)[:-1]), categories)
    return _split_levels(frame, levels_in(schema)) if levels_in(schema) else frame


def _batch(columns: Sequence[Column], values: Any, masks: Any) -> pa.RecordBatch:
    schema = arrow_schema(columns)
    arrays = []
    for field, data, mask in zip(schema, values, masks, strict=True):
        bits = None if mask is None or mask.all() else pa.py_buffer(np.packbits(mask, bitorder="little"))
        arrays.append(
            pa.Array.from_buffers(field.type, len(data), [bits, pa.py_buffer(data)], -1 if bits else 0)
        )
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _split_levels(frame: pl.DataFrame, levels: int) -> pl.DataFrame:
    """Return a row for each level of a book, the best one (1) first, from a row for each book."""
    sides = [f"{side}_{value}" for side in ("bid", "ask") for value in ("price", "size")]
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
    has_price = pl.col("bid_price").is_not_null() | pl.col("ask_price").is_not_null()
    return pl.concat(pieces).filter(has_price).sort("_row", "level").drop("_row")
