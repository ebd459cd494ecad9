"""Trades to partials: consecutive trades of one symbol in one second, folded."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.handoff.columns import PartialKind
from mdstream.streams.spec import MOST_AHEAD_NS
from workers.kernels.compiling import inlined, kernel

NOTHING = 0
VOLUME = 1
ALL = 2
MIDPOINT = 3
GAP = 4
"""This and the kinds after it are not trades: each ends all partials and becomes a row of its own."""
TICK = 5
CORRECTION = 6
CANCEL = 7

TAPES = 16
"""Codes of tapes, plus one, for which the effects of trades are cached."""
UNKNOWN = 255
"""In the cache of effects: not known yet."""

SECOND = 1_000_000_000

_TRADES, _AHEAD, _GAP = int(PartialKind.TRADES), int(PartialKind.AHEAD), int(PartialKind.GAP)
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
def begin(partial: Any, symbol: Any, second: int) -> None:
    """Return an empty partial or bar."""
    partial.symbol = symbol
    partial.trades = 0
    partial.second = second
    partial.open = partial.high = partial.low = partial.close = np.nan
    for part in range(2):
        partial.volume[part] = partial.notional[part] = partial.weight[part] = 0.0


@inlined
def reach(partial: Any, price: float) -> None:
    """Apply a price that counts for open, high, low and close."""
    if partial.open != partial.open:
        partial.open = partial.high = partial.low = price
    elif price > partial.high:
        partial.high = price
    elif price < partial.low:
        partial.low = price
    partial.close = price


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
    """Fold events (one per row) into `out`, rows of `PARTIAL`; return their number.

    A partial begins with a symbol's first event and with every change of its second. For all symbols it
    begins when the stream as a whole reaches a new second. `places` and `whose` are int64 scratch arrays
    whose size is a power of two above twice the events: a hash table from symbols to their partials.
    """
    mask = np.uint64(len(places) - 1)
    places[:] = -1
    oldest = 0  # partials before this one are closed
    newest = np.int64(-(1 << 63))
    count = 0
    trades = 0
    amendments = np.zeros(2, np.int64)
    for event in range(len(symbols)):
        effect = effects[event]
        if effect >= GAP:
            partial = out[count]
            begin(partial, symbols[event], np.int64(0))
            partial.kind = effect - GAP + _GAP
            partial.row = trades
            partial.begun = partial.recv_ts = received[event]
            if effect >= CORRECTION:
                partial.trades = amendments[effect - CORRECTION]
                amendments[effect - CORRECTION] += 1
            count += 1
            oldest = count
            continue
        row = trades
        trades += effect != MIDPOINT
        if effect == NOTHING:
            continue
        second = times[event] - times[event] % SECOND
        kind = _AHEAD if times[event] - received[event] > MOST_AHEAD_NS else _TRADES
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
            partial = out[number]
            begin(partial, symbols[event], second)
            partial.kind = kind
            partial.row = row
            partial.begun = received[event]
        partial = out[number]
        price = prices[event]
        size = sizes[event]
        partial.recv_ts = received[event]
        if effect != VOLUME:
            reach(partial, price)
        if effect != MIDPOINT:
            partial.trades += 1
            add(partial.volume, size)
            if effect == ALL:
                add(partial.notional, price * size)
                add(partial.weight, size)
    return count
