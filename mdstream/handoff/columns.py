"""Columns in a result area: where each one lies, written by a worker and read by the feed.

A part is its columns one after another, each aligned to 8 bytes:

    fixed size     [ values ][ mask, if the column has a null ]
    variable size  [ row ends, int64 ][ heap ][ mask, if … ]

A mask has one byte a row, 1 where the value is there. Both sides derive every offset from the same
declaration, so that a `Part` of a few numbers is all that has to cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mdstream.handoff.ticket import Part
from mdstream.streams.spec import VARIABLE, Channel
from mdstream.streams.storage import DTYPE

Array = npt.NDArray[Any]

PARTIAL = np.dtype(
    [
        ("symbol", "<u4"),
        ("trades", "<u4"),
        ("minute", "<i8"),
        ("open", "<f8"),
        ("high", "<f8"),
        ("low", "<f8"),
        ("close", "<f8"),
        ("volume", "<f8", 2),
        ("notional", "<f8", 2),
        ("weight", "<f8", 2),
        ("recv_ts", "<i8"),
    ]
)
"""A run of one symbol's trades within one minute: `minute` in ns, prices NaN where no trade of the
run may set them, sums as unevaluated pairs of floats (`workers.aggregate` says why)."""


@dataclass(slots=True)
class ColumnData:
    """One column of one batch.

    `values` has a number a row, or for variable sizes the int64 end of each row in `heap`.
    `mask` is None where every value is there, else a bool a row.
    """

    values: Array
    mask: npt.NDArray[np.bool_] | None = None
    heap: Array | None = None


def _aligned(offset: int) -> int:
    return -(-offset // 8) * 8


class _Span(NamedTuple):
    """Offsets of one column within its part; -1 for what it does not have."""

    values: int
    heap: int
    mask: int


def _spans(
    channel: Channel, rows: int, nulls: int, heaps: Sequence[int]
) -> tuple[list[_Span], int]:
    """Where every column of a part lies, and the size of the whole."""
    spans, offset, sizes = [], 0, iter(heaps)
    for index, column in enumerate(channel.columns):
        values, heap, mask, width = offset, -1, -1, DTYPE[column.kind].itemsize
        if column.kind in VARIABLE:
            heap = offset + rows * 8
            offset = _aligned(heap + next(sizes) * width)
        else:
            offset = _aligned(offset + rows * width)
        if nulls >> index & 1:
            mask = offset
            offset = _aligned(offset + rows)
        spans.append(_Span(values, heap, mask))
    return spans, offset


def part_bytes(data: Sequence[ColumnData]) -> int:
    """Bytes that `data` takes in a result area, at most."""
    return sum(
        item.values.nbytes
        + (0 if item.heap is None else item.heap.nbytes)
        + (0 if item.mask is None else item.mask.nbytes)
        + 16  # what alignment may add
        for item in data
    )


def write_part(
    area: memoryview, offset: int, channel: Channel, data: Sequence[ColumnData]
) -> tuple[Part, int]:
    """Copy the columns of one channel into `area` at `offset`; the part, and where it ends."""
    rows = len(data[0].values)
    part = Part(channel.name, rows, offset, _nulls(data), _heaps(data))
    spans, size = _spans(channel, rows, part.nulls, part.heaps)
    for item, span in zip(data, spans, strict=True):
        _put(area, offset + span.values, item.values)
        if item.heap is not None:
            _put(area, offset + span.heap, item.heap)
        if item.mask is not None:
            _put(area, offset + span.mask, item.mask)
    return part, offset + size


def read_part(area: memoryview, channel: Channel, part: Part) -> list[ColumnData]:
    """The columns of `part`, as views into `area`."""
    spans, _ = _spans(channel, part.rows, part.nulls, part.heaps)
    sizes = iter(part.heaps)

    def view(dtype: npt.DTypeLike, count: int, offset: int) -> npt.NDArray[Any]:
        return np.frombuffer(area, dtype, count, part.offset + offset)

    return [
        ColumnData(
            view(np.int64 if span.heap >= 0 else DTYPE[column.kind], part.rows, span.values),
            None if span.mask < 0 else view(np.bool_, part.rows, span.mask),
            None if span.heap < 0 else view(DTYPE[column.kind], next(sizes), span.heap),
        )
        for column, span in zip(channel.columns, spans, strict=True)
    ]


def _put(area: memoryview, offset: int, values: Array) -> None:
    if not values.size:
        return
    data = np.ascontiguousarray(values).data.cast("B")
    area[offset : offset + len(data)] = data


def _nulls(data: Sequence[ColumnData]) -> int:
    return sum(1 << i for i, item in enumerate(data) if item.mask is not None)


def _heaps(data: Sequence[ColumnData]) -> tuple[int, ...]:
    return tuple(len(item.heap) for item in data if item.heap is not None)
