"""Columns in a result area: a worker writes them, the feed reads them.

A part is a sequence of columns, each aligned to 8 bytes:

    fixed size     [ values ][ mask, if the column may have nulls ]
    variable size  [ row ends, int64 ][ heap ][ mask, if the column may have nulls ]

A mask has a byte for each row, 1 if there is a value. It is omitted if all values are present. Both sides
compute every offset from the channel's declaration, so a receipt has only the few numbers of a `Part`.
Columns of fixed size can be filled in place as soon as the number of rows is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mdstream.handoff.ticket import Extent, Part
from mdstream.streams.spec import VARIABLE, Channel
from mdstream.streams.storage import DTYPE

Array = npt.NDArray[Any]

_MAX_LAYOUTS = 256
"""Most layouts, by number of rows, that a shape caches."""
_ENDS = np.dtype(np.int64).char
"""Type of the row ends of a column of variable size."""

PARTIAL = np.dtype(
    [
        ("kind", "<u4"),
        ("symbol", "<u4"),
        ("row", "<u4"),
        ("trades", "<u4"),
        ("second", "<i8"),
        ("begun", "<i8"),
        ("recv_ts", "<i8"),
        ("open", "<f8"),
        ("high", "<f8"),
        ("low", "<f8"),
        ("close", "<f8"),
        ("volume", "<f8", 2),
        ("notional", "<f8", 2),
        ("weight", "<f8", 2),
    ]
)
"""A partial: consecutive trades of one symbol within one second, or an event between them (see `kind`).

`kind` is a `PartialKind`. `second` is the start of the second (ns). Prices are NaN if no trade of the
partial may set them. Sums are pairs of floats whose sum is not evaluated (see `aggregation.aggregate`).
`row` is the number of trades before it in the batch. `begun` and `recv_ts` are the receive times (ns) of
its first and last trade. For an amendment, `trades` is the row in its channel.
"""


class PartialKind(IntEnum):
    """Kind of a `PARTIAL` row."""

    TRADES = 0
    AHEAD = 1
    """Trades with a time so far in the future that the clock of bars must ignore it."""
    GAP = 2
    """The connection was lost here."""
    TICK = 3
    """Time has passed without a trade."""
    CORRECTION = 4
    CANCEL = 5


@dataclass(slots=True)
class ColumnData:
    """One column of one batch."""

    values: Array
    """A number for each row; of a column of variable size, the end of each row in `heap` (int64)."""
    mask: npt.NDArray[np.bool_] | None = None
    """For each row, whether it has a value; None if all have one."""
    heap: Array | None = None
    """The items of all rows, back to back, of a column of variable size."""


def concatenate(pieces: Sequence[ColumnData]) -> ColumnData:
    """Return the pieces of a column of fixed size as one column."""
    mask = None
    if any(piece.mask is not None for piece in pieces):
        mask = np.concatenate([mask_of(piece) for piece in pieces])
    return ColumnData(np.concatenate([piece.values for piece in pieces]), mask)


def take_rows(data: ColumnData, rows: npt.NDArray[np.int64]) -> ColumnData:
    """Return `rows` of a column of fixed size."""
    return ColumnData(data.values[rows], None if data.mask is None else data.mask[rows])


def mask_of(data: ColumnData) -> npt.NDArray[np.bool_]:
    """Return for each row whether it has a value."""
    return np.ones(len(data.values), np.bool_) if data.mask is None else data.mask


def _align(offset: int) -> int:
    return -(-offset // 8) * 8


class _Place(NamedTuple):
    """Offsets of one column's buffers within its part; -1 for a buffer that it does not have."""

    values: int
    heap: int
    mask: int


class Layout(NamedTuple):
    """Where the columns of a part are, and how many bytes it takes."""

    places: list[_Place]
    size: int
    targets: npt.NDArray[np.int64]
    """Offsets of values and mask for each column, -1 where it has none: the same for kernels."""


def lay_out(channel: Channel, rows: int, heaps: Sequence[int]) -> Layout:
    """Return the layout of `rows` rows of a channel; `heaps` has the items of each heap."""
    places, offset, sizes = [], 0, iter(heaps)
    for column in channel.columns:
        values, heap, mask, width = offset, -1, -1, DTYPE[column.kind].itemsize
        if column.kind in VARIABLE:
            heap = offset + rows * 8
            offset = _align(heap + next(sizes) * width)
        else:
            offset = _align(offset + rows * width)
        if column.nullable:
            mask = offset
            offset = _align(offset + rows)
        places.append(_Place(values, heap, mask))
    targets = np.array([(place.values, place.mask) for place in places], np.int64).reshape(-1)
    return Layout(places, offset, targets)


class Shape:
    """Properties of a channel's columns, for any number of rows."""

    _layouts: dict[int, Layout]
    """Cache: number of rows → layout, if there are no heaps."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.chars = [DTYPE[column.kind].char for column in channel.columns]
        """numpy's character for the type of each column."""
        self.nullable = sum(1 << i for i, column in enumerate(channel.columns) if column.nullable)
        """A bit for each column that may have nulls."""
        self._layouts = {}

    def layout(self, rows: int, heaps: Sequence[int] = ()) -> Layout:
        """Return the layout of `rows` rows; `heaps` has the items of each heap."""
        layout = None if heaps else self._layouts.get(rows)
        if layout is None:
            layout = lay_out(self.channel, rows, heaps)
            if not heaps:
                if len(self._layouts) == _MAX_LAYOUTS:
                    self._layouts.clear()
                self._layouts[rows] = layout
        return layout


class Columns(Sequence[ColumnData]):
    """Columns of fixed size in a result area. The view of a column is made at its first use.

    A nullable column has a mask until `complete` removes it.
    """

    # Written by the worker that fills the columns.
    nulls: int
    """A bit for each column that has a mask."""
    _views: dict[int, ColumnData]
    """Views made so far."""

    def __init__(self, area: ResultArea, shape: Shape, rows: int, start: int) -> None:
        self.area = area
        self.shape = shape
        self.rows = rows
        self.start = start
        self.nulls = shape.nullable
        self._places, _, self.targets = shape.layout(rows)
        self._views = {}

    def __len__(self) -> int:
        return len(self.shape.chars)

    def __getitem__(self, index: Any) -> Any:
        view = self._views.get(index)
        if view is None:
            first, _, mask = self._places[index]
            has_mask, view_of = self.nulls >> index & 1, self.area.view
            view = self._views[index] = ColumnData(
                view_of(self.shape.chars[index], self.start + first, self.rows),
                view_of("?", self.start + mask, self.rows) if has_mask else None,
            )
        return view

    def complete(self, index: int) -> None:
        """Note that all values of a column are present."""
        self.nulls &= ~(1 << index)
        if index in self._views:
            self._views[index].mask = None


class ResultArea:
    """Memory for a worker's result, filled from the start."""

    # Written by the worker that has the area's ticket; the feed only reads.
    used: int
    """Bytes that are filled."""
    _typed: dict[str, tuple[Array, int]]
    """Views of the whole area by type, and the type's size in bytes."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8, len(memory))
        self.used = 0
        self._typed = {}

    def make(self, shape: Shape, rows: int) -> Columns | None:
        """Return columns of `rows` rows to fill in place; None if there is no room."""
        start, end = self.used, self.used + shape.layout(rows).size
        if end > len(self.memory):
            return None
        self.used = end
        return Columns(self, shape, rows, start)

    def put(self, channel: Channel, data: Sequence[ColumnData]) -> Part | None:
        """Add `data`, as a copy unless `make` returned it. Return the part; None if there is no room."""
        if isinstance(data, Columns) and data.area is self:
            return Part(channel.name, data.rows, data.start, data.nulls, ())
        rows = len(data[0].values)
        nulls = sum(1 << i for i, item in enumerate(data) if item.mask is not None)
        heaps = tuple(len(item.heap) for item in data if item.heap is not None)
        places, size, _ = lay_out(channel, rows, heaps)
        start = self.used
        if start + size > len(self.memory):
            return None
        self.used += size
        for item, place in zip(data, places, strict=True):
            self._copy(start + place.values, item.values)
            if item.heap is not None:
                self._copy(start + place.heap, item.heap)
            if item.mask is not None:
                self._copy(start + place.mask, item.mask)
        return Part(channel.name, rows, start, nulls, heaps)

    def add(self, rows: Array) -> Extent | None:
        """Add a copy of an array; return its place, or None if there is no room."""
        start, end = self.used, self.used + array_bytes(rows)
        if end > len(self.memory):
            return None
        self.used = end
        self.memory[start : start + rows.nbytes] = rows.tobytes()
        return Extent(start, len(rows))

    def view(self, char: str, offset: int, count: int) -> Array:
        """Return `count` items at byte `offset`, as a slice: faster than a new view of memory."""
        typed = self._typed.get(char)
        if typed is None:
            width = np.dtype(char).itemsize
            items = self.bytes[: len(self.memory) // width * width].view(char)
            typed = self._typed[char] = items, width
        items, width = typed
        first = offset // width
        return items[first : first + count]

    def _copy(self, offset: int, values: Array) -> None:
        if values.size:
            data = np.ascontiguousarray(values).data.cast("B")
            self.memory[offset : offset + len(data)] = data


def part_bytes(channel: Channel, data: Sequence[ColumnData]) -> int:
    """Return how many bytes `data` takes in a result area."""
    heaps = [len(item.heap) for item in data if item.heap is not None]
    return lay_out(channel, len(data[0].values), heaps).size


def array_bytes(rows: Array) -> int:
    """Return how many bytes an array takes in a result area."""
    return _align(rows.nbytes)


def read_part(area: ResultArea, shape: Shape, part: Part) -> list[ColumnData]:
    """Return the columns of `part` as views into `area`; `shape` is that of its channel."""
    view_of, start, rows, nulls = area.view, part.offset, part.rows, part.nulls
    layout, sizes = shape.layout(rows, part.heaps), iter(part.heaps)
    return [
        ColumnData(
            view_of(char if heap < 0 else _ENDS, start + values, rows),
            view_of("?", start + mask, rows) if nulls >> index & 1 else None,
            view_of(char, start + heap, next(sizes)) if heap >= 0 else None,
        )
        for index, (char, (values, heap, mask)) in enumerate(zip(shape.chars, layout.places, strict=True))
    ]
