"""Which row of a batch is the newest of its symbol."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels.compiling import kernel

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@kernel
def newest(symbols: Any, times: Any, places: Any, out: Any) -> int:
    """The rows that no later row of their symbol replaces, in `out`; how many there are.

    A row replaces another of its symbol unless its time is before the other's. `symbols` uint32, `times`
    int64, a row each; `out` int64 of as many. `places`, int64 of a power of two and more than twice
    the rows, is scratch: a table from symbols to their place in `out`.
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
        elif times[row] >= times[out[number]]:
            out[number] = row
    return count
