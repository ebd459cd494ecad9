"""What a batch tells of each symbol last: the rows that bring `<stream>.latest` up to date."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdstream.handoff.columns import ColumnData
from mdstream.streams.spec import Channel
from workers.kernels.newest import newest


def newest_rows(channel: Channel, columns: Sequence[ColumnData], time: str) -> list[ColumnData]:
    """Of each symbol the row with the latest `time` (of two alike the later), as columns of the channel."""
    at = {column.name: index for index, column in enumerate(channel.columns)}
    symbols, times = columns[at["symbol"]].values, columns[at[time]].values
    rows = len(symbols)
    places = np.empty(1 << max(4, (2 * rows).bit_length()), np.int64)
    out = np.empty(rows, np.int64)
    chosen = out[: newest(symbols, times, places, out)]
    return [
        ColumnData(data.values[chosen], None if data.mask is None else data.mask[chosen])
        for data in (columns[i] for i in range(len(channel.columns)))
    ]
