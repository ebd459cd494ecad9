"""Trades to runs: consecutive trades of one symbol in one minute, folded."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels.compiling import inlined, kernel

NOTHING = 0
VOLUME = 1
ALL = 2
_MINUTE = 60_000_000_000
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@inlined
def add(total: Any, value: float) -> None:
    """Add `value` to the pair `total` without loss (two-sum)."""
    high = total[0]
    new = high + value
    back = new - high
    total[0] = new
    total[1] += (high - (new - back)) + (value - back)


@kernel
def fold(
    symbols: Any,
    times: Any,
    prices: Any,
    sizes: Any,
    effects: Any,
    received: Any,
    places: Any,
    whose: Any,
    out: Any,
) -> int:
    """Fold trades (a row each) into `out`, rows of `PARTIAL`; how many there are.

    A run begins with a symbol's first trade, with every change of its minute, and for all symbols when
    the stream as a whole comes to a new minute. `places` and `whose`, int64 of a power of two and more
    than twice the trades, are scratch: a table from symbols to their runs.
    """
    mask = np.uint64(len(places) - 1)
    places[:] = -1
    oldest = 0  # runs before this one are closed
    newest = np.int64(-(1 << 63))
    count = 0
    for row in range(len(symbols)):
        effect = effects[row]
        if effect == NOTHING:
            continue
        minute = times[row] - times[row] % _MINUTE
        if minute > newest:
            newest = minute
            oldest = count
        symbol = np.int64(symbols[row])
        place = np.int64((np.uint64(symbol) * _MULTIPLIER >> np.uint64(20)) & mask)
        while places[place] >= 0 and whose[place] != symbol:
            place = np.int64(np.uint64(place + 1) & mask)
        number = places[place]
        if number < oldest or out[number].minute != minute:
            number = count
            count += 1
            places[place] = number
            whose[place] = symbol
            run = out[number]
            run.symbol = symbols[row]
            run.trades = 0
            run.minute = minute
            run.open = run.high = run.low = run.close = np.nan
            for part in range(2):
                run.volume[part] = run.notional[part] = run.weight[part] = 0.0
        run = out[number]
        price = prices[row]
        size = sizes[row]
        run.trades += 1
        add(run.volume, size)
        run.recv_ts = received[row]
        if effect == ALL:
            if run.open != run.open:
                run.open = run.high = run.low = price
            elif price > run.high:
                run.high = price
            elif price < run.low:
                run.low = price
            run.close = price
            add(run.notional, price * size)
            add(run.weight, size)
    return count
