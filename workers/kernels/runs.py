"""Trades to runs: consecutive trades of one symbol in one second, folded."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.handoff.columns import Run
from workers.kernels.compiling import inlined, kernel

NOTHING = 0
VOLUME = 1
ALL = 2
MIDPOINT = 3
SEAM = 4
"""This and what follows is no trade: it ends all runs and becomes a row of its own."""
TICK = 5
CORRECTION = 6
CANCEL = 7

SECOND = 1_000_000_000
MOST_AHEAD = 60 * SECOND
"""A trade whose time lies farther behind its receipt than this moves no clock."""

_TRADES, _AHEAD, _SEAM = int(Run.TRADES), int(Run.AHEAD), int(Run.SEAM)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@inlined
def add(total: Any, value: float) -> None:
    """Add `value` to the pair `total` without loss (two-sum)."""
    high = total[0]
    new = high + value
    back = new - high
    total[0] = new
    total[1] += (high - (new - back)) + (value - back)


@inlined
def begin(run: Any, symbol: Any, second: int) -> None:
    """An empty run, or bar."""
    run.symbol = symbol
    run.trades = 0
    run.second = second
    run.open = run.high = run.low = run.close = np.nan
    for part in range(2):
        run.volume[part] = run.notional[part] = run.weight[part] = 0.0


@inlined
def reach(run: Any, price: float) -> None:
    """A price that counts for open, high, low and close."""
    if run.open != run.open:
        run.open = run.high = run.low = price
    elif price > run.high:
        run.high = price
    elif price < run.low:
        run.low = price
    run.close = price


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
    """Fold events (a row each) into `out`, rows of `PARTIAL`; how many there are.

    A run begins with a symbol's first event, with every change of its second, and for all symbols when
    the stream as a whole comes to a new second. `places` and `whose`, int64 of a power of two and more
    than twice the events, are scratch: a table from symbols to their runs.
    """
    mask = np.uint64(len(places) - 1)
    places[:] = -1
    oldest = 0  # runs before this one are closed
    newest = np.int64(-(1 << 63))
    count = 0
    trades = 0
    amendments = np.zeros(2, np.int64)
    for event in range(len(symbols)):
        effect = effects[event]
        if effect >= SEAM:
            run = out[count]
            begin(run, symbols[event], np.int64(0))
            run.kind = effect - SEAM + _SEAM
            run.row = trades
            run.begun = run.recv_ts = received[event]
            if effect >= CORRECTION:
                run.trades = amendments[effect - CORRECTION]
                amendments[effect - CORRECTION] += 1
            count += 1
            oldest = count
            continue
        row = trades
        trades += effect != MIDPOINT
        if effect == NOTHING:
            continue
        second = times[event] - times[event] % SECOND
        kind = _AHEAD if times[event] - received[event] > MOST_AHEAD else _TRADES
        if kind == _TRADES and second > newest:
            newest = second
            oldest = count
        symbol = np.int64(symbols[event])
        place = np.int64((np.uint64(symbol) * _MULTIPLIER >> np.uint64(20)) & mask)
        while places[place] >= 0 and whose[place] != symbol:
            place = np.int64(np.uint64(place + 1) & mask)
        number = places[place]
        if number < oldest or out[number].second != second or out[number].kind != kind:
            number = count
            count += 1
            places[place] = number
            whose[place] = symbol
            run = out[number]
            begin(run, symbols[event], second)
            run.kind = kind
            run.row = row
            run.begun = received[event]
        run = out[number]
        price = prices[event]
        size = sizes[event]
        run.recv_ts = received[event]
        if effect != VOLUME:
            reach(run, price)
        if effect != MIDPOINT:
            run.trades += 1
            add(run.volume, size)
            if effect == ALL:
                add(run.notional, price * size)
                add(run.weight, size)
    return count
