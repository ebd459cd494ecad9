"""The newest rows of each symbol in a batch: those that update `<stream>.latest`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mdstream.handoff.columns import ColumnData
from mdstream.streams.spec import RECV_TS, Channel
from workers.kernels.newest import newest
from workers.python_mode import either_way

_newest = either_way(newest)


def newest_rows(channel: Channel, columns: Sequence[ColumnData], time: str) -> npt.NDArray[np.int64]:
    """Return the numbers of the rows with the latest `time` of their symbol; the last of equal times."""
    symbols, times, received = (columns[channel.at[n]].values for n in ("symbol", time, RECV_TS.name))
    rows = len(symbols)
    places = np.empty(1 << max(4, (2 * rows).bit_length()), np.int64)
    out = np.empty(rows, np.int64)
    return out[: _newest(symbols, times, received, places, out)]
