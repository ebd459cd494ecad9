"""Find the newest row of each symbol in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.streams.spec import MOST_AHEAD_NS
from workers.kernels.compiling import inlined, kernel

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@inlined
def _replaces(row: Any, known: Any, times: Any, received: Any) -> bool:
    """Return whether `row` is newer than `known`: believed times count more than others, then the later."""
    is_believed = times[row] - received[row] <= MOST_AHEAD_NS
    if is_believed != (times[known] - received[known] <= MOST_AHEAD_NS):
        return is_believed
    return times[row] >= times[known]


@kernel
def newest(symbols: Any, times: Any, received: Any, places: Any, out: Any) -> int:
    """Select the rows that no later row of their symbol replaces into `out`; return their number.

    A row replaces another one of its symbol unless its time is earlier. Times too far ahead of the receipt
    lose against all others (`MOST_AHEAD_NS`). `symbols` uint32, `times` and `received` int64: one entry per
    row; `out` int64 of as many. `places` is an int64 scratch array whose size is a power of
    two above twice the rows: a hash table from symbols to their place in `out`.
    """
    mask = np.uint64(len(places) - 1)
    places[:] = -1
    count = 0
    for row in range(len(symbols)):
        symbol = symbols[row]
        place = np.int64((np.uint64(symbol) * _MULTIPLIER >> np.uint64(20)) & mask)
        while places[place] >= 0 and symbols[out[places[place]]] != symbol:
            place = np.int64(np.uint64(place + 1) & mask)
        number = places[place]
        if number < 0:
            places[place] = count
            out[count] = row
            count += 1
        elif _replaces(row, out[number], times, received):
            out[number] = row
    return count
