from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mdstream.handoff.columns import ColumnData, part_bytes, read_part, write_part
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
    area = memoryview(bytearray(offset + part_bytes(data) + 16))
    part, end = write_part(area, offset, CHANNEL, data)
    assert end <= offset + part_bytes(data)
    assert bytes(area[end:]) == bytes(len(area) - end), "wrote beyond its size"
    for wrote, read in zip(data, read_part(area, CHANNEL, part), strict=True):
        np.testing.assert_array_equal(wrote.values, read.values)
        assert (wrote.mask is None) == (read.mask is None)
        if wrote.mask is not None:
            np.testing.assert_array_equal(wrote.mask, read.mask)
        if wrote.heap is not None:
            np.testing.assert_array_equal(wrote.heap, read.heap)
