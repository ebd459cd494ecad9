"""The columns of a frame, as its own feed reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdstream.frames.frame_columns import FrameColumns
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.streams.spec import Column, Kind

COLUMNS = (Column("ts", Kind.TIME, required=True), Column("n", Kind.INT, required=True))
LIMITS = Limits(retention=8_000, chunk=1_000)
"""About seven chunks of 64 rows."""


@given(
    st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=90), min_size=1, max_size=12),
    st.integers(0, 1000),
    st.integers(0, 300),
    st.data(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_row_of_a_span_is_passed_over(
    tmp_path: Path, batches: list[list[int]], first: int, length: int, data: st.DataObject
) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    writer = FrameWriter(folder, COLUMNS, LIMITS)
    columns = FrameColumns(writer)
    everything: list[int] = []
    for batch in batches:
        numbers = np.arange(len(everything), len(everything) + len(batch))
        writer.append([ColumnData(np.array(batch, np.int64)), ColumnData(numbers)])
        everything += batch
        stop = data.draw(st.integers(writer.head.first_row + 1, writer.rows))
        found = []
        for start, rows, views in columns.within("ts", first, first + length, stop):
            times, numbers = views["ts"].values[:rows], views["n"].values[:rows]
            assert numbers.tolist() == list(range(start, start + rows))
            found += numbers[(times >= first) & (times < first + length)].tolist()
        kept = range(writer.head.first_row, stop)
        assert sorted(found) == [n for n in kept if first <= everything[n] < first + length]
    writer.close()
