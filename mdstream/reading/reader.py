"""Reading frames: zero-copy Polars DataFrames over what the writers publish.

Numbers, times and codes are never copied: a column of a DataFrame is the shared memory itself. Symbols and
other coded texts become Polars categoricals with the frame's own codes. Free texts and lists (news,
statuses) are converted, which copies them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from mdstream.errors import NoRunError
from mdstream.frames.head import ChunkEntry, Head
from mdstream.frames.layout import dictionary_of, find_buffers, kind_of, read_schema
from mdstream.reading.categories import StreamCategories
from mdstream.streams.spec import VARIABLE, Kind

log = logging.getLogger(__name__)


def open_frame(folder: Path) -> tuple[Head, pa.Schema]:
    """Return the head and the schema of the frame in `folder`. Raises `NoRunError` if there is none."""
    try:
        return Head(folder, write=False), read_schema(folder)
    except FileNotFoundError as error:
        raise NoRunError(f"no frame at {folder}: its run has ended") from error


class FrameReader:
    """The reader of one frame, or of the part of a frame that one feed writes.

    Readers of one stream share `categories`; without them, a reader has its own.
    """

    head: Head
    """In shared memory, written by the frame's writer."""
    # Written by the reader, under the attachment's lock.
    _chunks: dict[int, _Chunk]
    """The chunks that are mapped, by number. They stay mapped as long as the frame keeps them."""
    _sealed: dict[int, pl.DataFrame]
    """DataFrames of whole sealed chunks, by number."""

    def __init__(self, folder: Path, categories: StreamCategories | None = None) -> None:
        self.head, self._schema = open_frame(folder)
        self.name = folder.name
        self._run = folder.parent.parent
        self.categories = categories or StreamCategories(self._run, self.name.partition(".")[0])
        self._chunks = {}
        self._sealed = {}

    @property
    def rows(self) -> int:
        """Rows ever published."""
        return self.head.rows

    @property
    def first_row(self) -> int:
        """Number of the oldest row that is kept."""
        return self.head.first_row

    def read(self, start: int = 0, stop: int | None = None) -> tuple[int, pl.DataFrame]:
        """Return rows `start` to `stop` (exclusive; None: the last one), after the number of the first.

        Rows that retention has dropped are left out, so the first may be later than `start`.
        """
        first, entries, rows = self._map_chunks()
        return self._read_chunks(entries, first, rows, start, stop)

    def map(self) -> None:
        """Map all rows that are published, so that they can be read after the end of the run."""
        self._map_chunks()
        self.categories.refresh(self._schema)

    def read_mapped(self) -> pl.DataFrame:
        """Return the rows that are mapped, the newest in one piece. For a run whose files are gone."""
        entries: list[ChunkEntry] = []
        rows = 0
        for number in range(self.head.first, self.head.end):
            if number in self._chunks:
                entries.append(self.head.entry(number))
                is_last = number + 1 == self.head.end
                rows = self.head.rows if is_last else self.head.entry(number + 1).start_row
            elif entries:
                break
        if rows < self.head.rows:
            log.warning(
                "%s: the run has ended; this has the first %d of its %d rows, as far as they were opened",
                self.name,
                rows,
                self.head.rows,
            )
        return self._read_chunks(entries, entries[0].start_row if entries else rows, rows)[1]

    def _read_chunks(
        self, entries: list[ChunkEntry], first: int, rows: int, start: int = 0, stop: int | None = None
    ) -> tuple[int, pl.DataFrame]:
        """Return rows of mapped chunks, which begin with row `first` and end before row `rows`."""
        stop = rows if stop is None else min(stop, rows)
        begin = min(max(start, first), stop)
        wanted = []
        for entry, following in itertools.zip_longest(entries, entries[1:]):
            end = rows if following is None else following.start_row
            if end > begin and entry.start_row < stop:
                wanted.append((entry, end - entry.start_row, following is not None))
        self._convert_full([(entry, length) for entry, length, is_full in wanted if is_full])
        pieces = []
        for entry, length, is_full in wanted:
            low, high = max(begin - entry.start_row, 0), min(stop - entry.start_row, length)
            if is_full:
                pieces.append(self._sealed[entry.number].slice(low, high - low))
            else:
                pieces.append(self._read_chunk(entry, low, high))
        if not pieces:
            return begin, empty_frame(self._schema, self.categories)
        return begin, pieces[0] if len(pieces) == 1 else pl.concat(pieces, rechunk=False)

    def _map_chunks(self) -> tuple[int, list[ChunkEntry], int]:
        """Map all chunks that are kept; return their first row, their entries, and the rows published."""
        while True:
            rows, end, first = self.head.rows, self.head.end, self.head.first
            entries = [self.head.entry(number) for number in range(first, end)]
            # A chunk that starts at or after `rows` has no published rows yet.
            entries = [e for e in entries if e.start_row < rows]
            if all(self._map(entry) for entry in entries):
                break  # otherwise the writer dropped one meanwhile: read the head again
        for number in [n for n in self._chunks if n < first]:
            del self._chunks[number]
            self._sealed.pop(number, None)
        return (entries[0].start_row if entries else rows), entries, rows

    def _map(self, entry: ChunkEntry) -> bool:
        """Map a chunk unless it is mapped; return False if the writer has dropped it."""
        if entry.number not in self._chunks:
            path = self.head.chunk_path(entry.number)
            try:
                self._chunks[entry.number] = _Chunk(path, entry.capacity, self.categories)
            except FileNotFoundError:
                if not self._run.exists():
                    raise NoRunError(f"{self.name}: its run has ended") from None
                return False
        return True

    def _read_chunk(self, entry: ChunkEntry, start: int, stop: int) -> pl.DataFrame:
        self.categories.refresh(self._schema)
        return self._chunks[entry.number].read(start, stop, self._nulls(entry))

    def _nulls(self, entry: ChunkEntry) -> int:
        # The entry may be older than the row count, and lack a null that came in between: read it again.
        return self.head.entry(entry.number).nulls

    def _convert_full(self, chunks: list[tuple[ChunkEntry, int]]) -> None:
        """Convert those full chunks, each with its number of rows, that are not converted yet.

        They are converted together, because each call of Polars takes its time.
        """
        chunks = [(entry, rows) for entry, rows in chunks if entry.number not in self._sealed]
        if not chunks:
            return
        self.categories.refresh(self._schema)
        batches = [self._chunks[entry.number].batch(rows, self._nulls(entry)) for entry, rows in chunks]
        whole, start = to_polars(batches, self.categories), 0
        for entry, rows in chunks:
            self._sealed[entry.number] = whole.slice(start, rows)
            start += rows


class _Chunk:
    """A chunk with room for `rows` rows, mapped for reading."""

    # Written by `_full_columns` alone.
    _full: pl.DataFrame | None
    """The columns that were converted for the full capacity."""
    _nulls: int
    """A bit for each column that had nulls when they were converted."""

    def __init__(self, path: Path, rows: int, categories: StreamCategories) -> None:
        mapped = pa.memory_map(str(path))
        base = mapped.read_buffer(mapped.size())
        self.schema = pa.ipc.open_file(base).schema
        self._base = base
        self._buffers = find_buffers(base)
        self._rows = rows
        self._categories = categories
        self._dictionaries = {name for field in self.schema if (name := dictionary_of(field))}
        self._full = None
        self._nulls = 0

    def read(self, start: int, stop: int, nulls: int) -> pl.DataFrame:
        """Return rows `start` to `stop` of the chunk; `nulls` has a bit for each column with a null."""
        full = self._full_columns(nulls)
        part = full.slice(start, stop - start)
        if len(full.columns) == len(self.schema):
            return part
        names = set(full.columns)
        fields = [field for field in self.schema if field.name not in names]
        arrays = [self._array(self.schema.get_field_index(f.name), stop, nulls)[start:] for f in fields]
        batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        return part.hstack(to_polars([batch], self._categories)).select(self.schema.names)

    def batch(self, rows: int, nulls: int) -> pa.RecordBatch:
        """Return the first `rows` rows of the chunk; `nulls` has a bit for each column with a null."""
        arrays = [self._array(index, rows, nulls) for index in range(len(self.schema))]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _full_columns(self, nulls: int) -> pl.DataFrame:
        """Return the columns of fixed size without nulls, as long as the chunk's capacity.

        They are converted once, also for rows to come, because Polars takes longest to check codes.
        """
        is_identity = all(self._categories[name].is_identity for name in self._dictionaries)
        if self._full is None or self._nulls != nulls or not is_identity:
            self._nulls = nulls
            self._full = self._convert(nulls)
        return self._full

    def _convert(self, nulls: int) -> pl.DataFrame:
        fields, arrays, coded = [], [], {}
        for index, field in enumerate(self.schema):
            name = dictionary_of(field)
            if nulls >> index & 1 or kind_of(field) in VARIABLE:
                continue
            if name and not self._categories[name].is_identity:
                continue
            fields.append(field)
            arrays.append(self._array(index, self._rows, nulls))
            if name:
                coded[field.name] = pl.col(field.name).cat.to(self._categories[name].dtype, strict=False)
        frame = import_batch(pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)))
        if not coded:
            return frame
        frame = frame.with_columns(**coded)
        # A code without a text, which became null, belongs to a row that is not published yet.
        missing = frame.select(pl.col(*coded).null_count()).row(0)
        return frame.drop([name for name, count in zip(coded, missing, strict=True) if count])

    def _array(self, index: int, rows: int, nulls: int) -> pa.Array:
        field, place = self.schema.field(index), self._buffers[index]
        validity = self._base.slice(place.validity) if nulls >> index & 1 else None
        buffers, children = [validity, self._base.slice(place.values)], None
        if pa.types.is_large_list(field.type):
            heap = [None, self._base.slice(place.heap)]
            children = [pa.Array.from_buffers(pa.uint32(), place.heap_items, heap)]
        elif place.heap >= 0:
            buffers.append(self._base.slice(place.heap))
        null_count = -1 if validity else 0  # -1: let Arrow count
        return pa.Array.from_buffers(field.type, rows, buffers, null_count=null_count, children=children)


def empty_frame(schema: pa.Schema, categories: StreamCategories) -> pl.DataFrame:
    """Return a DataFrame without rows that has the columns of `schema`."""
    categories.refresh(schema)
    arrays = [pa.nulls(0, field.type) for field in schema]
    return to_polars([pa.RecordBatch.from_arrays(arrays, schema=schema)], categories)


def to_polars(batches: Sequence[pa.RecordBatch], categories: StreamCategories) -> pl.DataFrame:
    """Return record batches of one schema as readers see them: codes become the texts that they mean.

    Here and in `empty_frame` nothing calls `pa.array`, which imports pandas where it is installed (0.3 s).
    """
    frame = pl.concat([import_batch(batch) for batch in batches], rechunk=False)
    texts: list[pl.Expr | pl.Series] = []
    for index, field in enumerate(batches[0].schema):
        name = dictionary_of(field)
        if kind_of(field) is Kind.SYMBOLS:
            symbols = pl.Series(categories[name].texts, dtype=pl.String).to_arrow()
            lists = [_symbol_lists(batch.column(index), symbols) for batch in batches]
            texts.append(pl.concat([pl.Series(field.name, each, pl.List(pl.String)) for each in lists]))
        elif name:
            texts.append(categories[name].to_texts(frame[field.name]))
    return frame.with_columns(texts) if texts else frame


class _Exported:
    """A record batch of which Polars sees Arrow's C interface alone.

    For what it knows to be pyarrow's, Polars imports `pyarrow.compute`, which takes longer (45 ms) than to
    read a million rows.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        exported: tuple[object, object] = self._batch.__arrow_c_array__(requested_schema)
        return exported


def import_batch(batch: pa.RecordBatch) -> pl.DataFrame:
    """Return a record batch as a DataFrame on the same memory."""
    return pl.DataFrame(_Exported(batch))


def _symbol_lists(codes: pa.LargeListArray, symbols: pa.LargeStringArray) -> pa.LargeListArray:
    if not len(codes):
        return pa.nulls(0, pa.large_list(pa.large_string()))
    items = symbols.take(codes.flatten())
    offsets = pa.compute.subtract(codes.offsets, codes.offsets[0])
    return pa.LargeListArray.from_arrays(offsets, items, mask=codes.is_null())
