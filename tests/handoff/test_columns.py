from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mdstream.handoff.columns import ColumnData, ResultArea, Shape, part_bytes, read_part
from mdstream.streams.spec import Channel, Column, Kind

CHANNEL = Channel(
    "x",
    (
        Column("symbol", Kind.SYMBOL, "S", dictionary="symbols"),
        Column("flag", Kind.BOOL, "r", default=False),
        Column("text", Kind.TEXT, "text"),
        Column("code", Kind.CODE, "z", dictionary="codes"),
        Column("price", Kind.FLOAT, "p"),
    ),
)

ROW = st.tuples(
    st.none() | st.integers(0, 2**32 - 1),
    st.booleans(),
    st.none() | st.text(max_size=20),
    st.none() | st.integers(0, 2**16 - 1),
    st.none() | st.floats(allow_nan=False),
)


@given(st.lists(ROW, min_size=1), st.integers(0, 5))
def test_columns_come_back_as_they_were_written(rows: list[tuple[object, ...]], skip: int) -> None:
    symbol, flag, text, code, price = zip(*rows, strict=True)

    def fixed(values: tuple[object, ...], dtype: object) -> ColumnData:
        mask = np.array([v is not None for v in values])
        filled = np.array([0 if v is None else v for v in values], dtype)  # type: ignore[call-overload]
        return ColumnData(filled, None if mask.all() else mask)

    encoded = [b"" if t is None else str(t).encode() for t in text]
    texts = ColumnData(
        np.cumsum([len(t) for t in encoded], dtype=np.int64),
        np.array([t is not None for t in text]) if None in text else None,
        np.frombuffer(b"".join(encoded), np.uint8),
    )
    data = [
        fixed(symbol, np.uint32),
        fixed(flag, np.bool_),
        texts,
        fixed(code, np.uint16),
        fixed(price, np.float64),
    ]
    offset = skip * 8
    memory = memoryview(bytearray(offset + part_bytes(CHANNEL, data) + 16))
    area = ResultArea(memory)
    area.used = offset
    part = area.put(CHANNEL, data)
    assert part is not None
    assert area.used == offset + part_bytes(CHANNEL, data)
    assert bytes(memory[area.used :]) == bytes(16), "the area was written beyond its size"
    assert area.put(CHANNEL, data) is None, "there is no room for a second column"
    for wrote, read in zip(data, read_part(area, Shape(CHANNEL), part), strict=True):
        np.testing.assert_array_equal(wrote.values, read.values)
        assert (wrote.mask is None) == (read.mask is None)
        if wrote.mask is not None:
            np.testing.assert_array_equal(wrote.mask, read.mask)
        if wrote.heap is not None:
            np.testing.assert_array_equal(wrote.heap, read.heap)


FIXED = Channel("y", tuple(c for c in CHANNEL.columns if c.kind is not Kind.TEXT))


@given(st.integers(1, 50), st.integers(0, 5), st.data())
def test_columns_made_in_place_are_not_copied(rows: int, skip: int, data: st.DataObject) -> None:
    memory = memoryview(bytearray(4096))
    area = ResultArea(memory)
    area.used = skip * 8
    made = area.make(Shape(FIXED), rows)
    assert made is not None
    flags = st.lists(st.booleans(), min_size=rows, max_size=rows)
    for index, (column, item) in enumerate(zip(FIXED.columns, made, strict=True)):
        item.values[:] = np.arange(rows) % 2
        if item.mask is not None:
            item.mask[:] = data.draw(flags)
            if item.mask.all():
                made.complete(index)
        assert column.nullable or item.mask is None
    before, used = bytes(memory), area.used
    part = area.put(FIXED, made)
    assert (bytes(memory), area.used) == (before, used)
    assert part is not None
    for wrote, read in zip(made, read_part(area, Shape(FIXED), part), strict=True):
        np.testing.assert_array_equal(wrote.values, read.values)
        assert (wrote.mask is None) == (read.mask is None)
        if wrote.mask is not None:
            np.testing.assert_array_equal(wrote.mask, read.mask)
    assert ResultArea(memory[:64]).make(Shape(FIXED), 50) is None
