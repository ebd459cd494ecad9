"""Reading frames: zero-copy Polars DataFrames over what the writers publish.

Numbers, times and codes are never copied: a DataFrame's columns are the shared memory itself. Symbols
and other coded texts show as Polars categoricals whose physical codes are the frame's own. Columns of
free text and lists (news, statuses) are converted, which copies them.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from mdstream.errors import NoRunError
from mdstream.frames.dictionary import DictionaryReader
from mdstream.frames.head import Entry, Head
from mdstream.frames.layout import find_buffers, read_schema
from mdstream.frames.rundir import dictionary_path
from mdstream.streams.spec import VARIABLE, Kind


class Categories:
    """A shared dictionary as Polars categories, the same ones as long as the run is read.

    Polars gives a text the next code when it first meets it, and so the dictionary's own, unless a program
    had named a text (in a cast, a join) that came to the dictionary later. From there on codes are
    translated, which copies the column; before, they are what lies in shared memory.
    """

    # The mutable state: Polars' code of each text; how many of them from the first on are the
    # dictionary's own; series that refer to the texts, for Polars forgets those that nothing refers to.

    def __init__(self, path: Path, physical: type[pl.UInt16] | type[pl.UInt32]) -> None:
        self.dtype = pl.Categorical(pl.Categories(str(path), "mdstream", physical))
        self._reader = DictionaryReader(path)
        self._codes = pl.Series(dtype=physical)
        self._own = 0
        self._kept: list[pl.Series] = []

    @property
    def texts(self) -> list[str]:
        self._reader.refresh()
        return self._reader.texts

    def refresh(self) -> None:
        """Make texts known to Polars that are new."""
        first = len(self._codes)
        texts = self.texts[first:]
        if not texts:
            return
        series = pl.Series(texts, dtype=self.dtype)
        self._kept.append(series)
        codes = series.to_physical()
        if self._own == first:
            differing = np.flatnonzero(codes.to_numpy() != np.arange(first, first + len(texts)))
            self._own += int(differing[0]) if len(differing) else len(texts)
        self._codes = self._codes.append(codes)

    @property
    def is_plain(self) -> bool:
        """Whether Polars' codes are the dictionary's own, all of them."""
        return self._own == len(self._codes)

    def of(self, codes: pl.Series) -> pl.Series:
        """A column of the dictionary's codes as a column of texts."""
        if not self.is_plain and (codes.max() or 0) >= self._own:  # type: ignore[operator]
            codes = self._codes.gather(codes)
        return codes.cat.to(self.dtype)


def refresh(categories: dict[str, Categories], schema: pa.Schema, run: Path, stream: str) -> None:
    """Bring `categories` up to date, with those that a frame of `schema` needs."""
    for field in schema:
        name = field.metadata.get(b"dictionary", b"").decode()
        if name and name not in categories:
            physical = pl.UInt16 if field.type == pa.uint16() else pl.UInt32
            categories[name] = Categories(dictionary_path(run, stream, name), physical)
    for each in categories.values():
        each.refresh()


class FrameReader:
    """One frame of one run. Chunks stay mapped as long as the frame keeps them.

    `rows` counts every row ever published; `first_row` is the oldest that is still kept.
    """

    # The mutable state: chunks mapped so far, by number, and finished DataFrames of sealed ones.

    def __init__(self, folder: Path, categories: dict[str, Categories]) -> None:
        try:
            self.head = Head(folder, write=False)
        except FileNotFoundError as error:
            raise NoRunError(f"no frame at {folder}: its run has ended") from error
        self.name = folder.name
        self._run = folder.parent.parent
        self._categories = categories
        self._chunks: dict[int, _Chunk] = {}
        self._sealed: dict[int, pl.DataFrame] = {}
        self._schema: pa.Schema | None = None

    @property
    def rows(self) -> int:
        return self.head.rows

    @property
    def first_row(self) -> int:
        return self._span()[0]

    def read(self, start: int = 0, stop: int | None = None) -> tuple[int, pl.DataFrame]:
        """Rows `start`..`stop` (row numbers; the end by default) and the number of the first one.

        Rows that retention has dropped are left out, so the first may lie behind `start`.
        """
        first, entries, rows = self._entries()
        stop = rows if stop is None else min(stop, rows)
        begin = min(max(start, first), stop)
        pieces = []
        for entry, following in itertools.zip_longest(entries, entries[1:]):
            end = rows if following is None else following.start_row
            if end <= begin or entry.start_row >= stop:
                continue
            low, high = max(begin - entry.start_row, 0), min(stop, end) - entry.start_row
            if following is None:
                pieces.append(self._convert(entry, low, high))
            else:
                if entry.number not in self._sealed:
                    self._sealed[entry.number] = self._convert(entry, 0, end - entry.start_row)
                pieces.append(self._sealed[entry.number].slice(low, high - low))
        if not pieces:
            return begin, self._empty()
        return begin, pieces[0] if len(pieces) == 1 else pl.concat(pieces, rechunk=False)

    def streams(self) -> pl.Categorical:
        """The type of columns that name streams, for a part of a frame to say whose it is."""
        if "streams" not in self._categories:
            path = dictionary_path(self._run, self.name.partition(".")[0], "streams")
            self._categories["streams"] = Categories(path, pl.UInt16)
        return self._categories["streams"].dtype

    def _span(self) -> tuple[int, int]:
        rows, end, first = self.head.rows, self.head.end, self.head.first
        return (self.head.entry(first).start_row if end > first else 0), rows

    def _entries(self) -> tuple[int, list[Entry], int]:
        """The first kept row, the chunks from there on, mapped, and the published rows."""
        while True:
            rows, end, first = self.head.rows, self.head.end, self.head.first
            entries = [self.head.entry(number) for number in range(first, end)]
            # A chunk that begins at or behind `rows` holds nothing yet that anyone may see.
            entries = [e for e in entries if e.start_row < rows]
            if all(self._map(entry) for entry in entries):
                break  # else one was dropped while we looked: look again
        for number in [n for n in self._chunks if n < first]:
            del self._chunks[number]
            self._sealed.pop(number, None)
        return (entries[0].start_row if entries else rows), entries, rows

    def _map(self, entry: Entry) -> bool:
        if entry.number not in self._chunks:
            try:
                self._chunks[entry.number] = _Chunk(self.head.chunk_path(entry.number), entry.capacity)
            except FileNotFoundError:
                if not self._run.exists():
                    raise NoRunError(f"{self.name}: its run has ended") from None
                return False
            self._schema = self._chunks[entry.number].schema
        return True

    def _convert(self, entry: Entry, start: int, stop: int) -> pl.DataFrame:
        self._refresh_categories()
        # Read again: a null may have come between reading the entry and the row count.
        nulls = self.head.entry(entry.number).nulls
        return self._chunks[entry.number].frame(start, stop, nulls, self._categories)

    def _refresh_categories(self) -> None:
        assert self._schema is not None
        refresh(self._categories, self._schema, self._run, self.name.partition(".")[0])

    def _empty(self) -> pl.DataFrame:
        """No rows, but the columns and types the frame has."""
        if self._schema is None:
            self._schema = read_schema(self.head.folder)
        self._refresh_categories()
        arrays = [pa.array([], field.type) for field in self._schema]
        return to_polars(pa.RecordBatch.from_arrays(arrays, schema=self._schema), self._categories)


class _Chunk:
    """A chunk mapped for reading."""

    # The mutable state: the columns that were converted for all rows, and for which nulls.

    def __init__(self, path: Path, rows: int) -> None:
        mapped = pa.memory_map(str(path))
        base = mapped.read_buffer(mapped.size())
        self.schema = pa.ipc.open_file(base).schema
        self._base = base
        self._buffers = find_buffers(base)
        self._rows = rows
        self._dictionaries = {
            field.metadata[b"dictionary"].decode()
            for field in self.schema
            if b"dictionary" in field.metadata
        }
        self._nulls = 0
        self._steady: pl.DataFrame | None = None

    def frame(self, start: int, stop: int, nulls: int, categories: dict[str, Categories]) -> pl.DataFrame:
        """Rows `start`..`stop` of the chunk. `nulls` has a bit for each column that needs its bitmap."""
        steady = self._steady_columns(nulls, categories)
        part = steady.slice(start, stop - start)
        if len(steady.columns) == len(self.schema):
            return part
        names = set(steady.columns)
        fields = [field for field in self.schema if field.name not in names]
        arrays = [self._array(self.schema.get_field_index(f.name), stop, nulls)[start:] for f in fields]
        others = to_polars(pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)), categories)
        return part.hstack(others).select(self.schema.names)

    def _steady_columns(self, nulls: int, categories: dict[str, Categories]) -> pl.DataFrame:
        """Columns that can be converted once for all of the chunk's room, rows to come included: those of
        fixed size where nothing is missing. To check codes is what costs Polars most.
        """
        if self._steady is None or self._nulls != nulls or not self._is_plain(categories):
            self._nulls = nulls
            self._steady = self._convert(nulls, categories)
        return self._steady

    def _is_plain(self, categories: dict[str, Categories]) -> bool:
        return all(categories[name].is_plain for name in self._dictionaries)

    def _convert(self, nulls: int, categories: dict[str, Categories]) -> pl.DataFrame:
        columns, coded = [], {}
        for index, field in enumerate(self.schema):
            name = field.metadata.get(b"dictionary", b"").decode()
            if nulls >> index & 1 or Kind(field.metadata[b"kind"].decode()) in VARIABLE:
                continue
            if name and not categories[name].is_plain:
                continue
            series: pl.Series = pl.from_arrow(self._array(index, self._rows, nulls))  # type: ignore[assignment]
            columns.append(series.alias(field.name))
            if name:
                coded[field.name] = pl.col(field.name).cat.to(categories[name].dtype, strict=False)
        frame = pl.DataFrame(columns).with_columns(**coded)
        # A code beyond those we know of belongs to a row that is not published yet.
        return frame.drop([name for name in coded if frame[name].null_count()])

    def _array(self, index: int, rows: int, nulls: int) -> pa.Array:
        field, found = self.schema.field(index), self._buffers[index]
        validity = self._base.slice(found.validity) if nulls >> index & 1 else None
        buffers, children = [validity, self._base.slice(found.values)], None
        if pa.types.is_large_list(field.type):
            heap = [None, self._base.slice(found.heap)]
            children = [pa.Array.from_buffers(pa.uint32(), found.heap_items, heap)]
        elif found.heap >= 0:
            buffers.append(self._base.slice(found.heap))
        null_count = -1 if validity else 0  # -1: let Arrow count
        return pa.Array.from_buffers(field.type, rows, buffers, null_count=null_count, children=children)


def to_polars(batch: pa.RecordBatch, categories: dict[str, Categories]) -> pl.DataFrame:
    """Columns as Polars shows them, codes as the texts they stand for."""
    columns = []
    for field, array in zip(batch.schema, batch.columns, strict=True):
        kind = Kind(field.metadata[b"kind"].decode())
        if kind is Kind.SYMBOLS:
            symbols = pa.array(categories[field.metadata[b"dictionary"].decode()].texts, pa.large_string())
            columns.append(pl.Series(field.name, _symbol_lists(array, symbols), pl.List(pl.String)))
            continue
        series: pl.Series = pl.from_arrow(array)  # type: ignore[assignment]
        if b"dictionary" in field.metadata:
            series = categories[field.metadata[b"dictionary"].decode()].of(series)
        columns.append(series.alias(field.name))
    return pl.DataFrame(columns)


def _symbol_lists(codes: pa.LargeListArray, symbols: pa.LargeStringArray) -> pa.LargeListArray:
    if not len(codes):
        return pa.array([], pa.large_list(pa.large_string()))
    items = symbols.take(codes.flatten())
    offsets = pa.compute.subtract(codes.offsets, codes.offsets[0])
    return pa.LargeListArray.from_arrays(offsets, items, mask=codes.is_null())
