"""What a batch tells of each symbol last: the rows that bring `<stream>.latest` up to date."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mdstream.handoff.columns import ColumnData
from mdstream.streams.spec import Channel
from workers.kernels.newest import newest


def newest_rows(channel: Channel, columns: Sequence[ColumnData], time: str) -> npt.NDArray[np.int64]:
    """The numbers of the rows that have, of their symbol, the latest `time`; of two alike the later."""
    symbols, times = columns[channel.at["symbol"]].values, columns[channel.at[time]].values
    rows = len(symbols)
    places = np.empty(1 << max(4, (2 * rows).bit_length()), np.int64)
    out = np.empty(rows, np.int64)
    return out[: newest(symbols, times, places, out)]
