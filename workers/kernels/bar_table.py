"""Partials to bars: joined in order, published once their time has passed.

The file is long because the layouts of bars, rows and heads are beside all kernels that use them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.handoff.columns import PartialKind
from workers.kernels.compiling import called, inlined, kernel
from workers.kernels.partials import SECOND, begin

BAR = np.dtype(
    [
        ("symbol", "<u4"),
        ("flags", "<u4"),
        ("second", "<i8"),
        ("recv_ts", "<i8"),
        ("trades", "<i8"),
        ("open", "<f8"),
        ("high", "<f8"),
        ("low", "<f8"),
        ("close", "<f8"),
        ("volume", "<f8", 2),
        ("notional", "<f8", 2),
        ("weight", "<f8", 2),
    ]
)
"""A bar that can still change. `second` is its start in ns."""

PUBLISHED, DIRTY, STALE, INCOMPLETE, BUILDING = 1, 2, 4, 8, 16
"""Flags of a bar: published; changed since; must be rebuilt from its trades; may lack trades; is being
rebuilt.
"""

ROW = np.dtype(
    [
        ("turn", "<i8"),
        ("symbol", "<u4"),
        ("ts", "<i8"),
        ("open", "<f8"),
        ("high", "<f8"),
        ("low", "<f8"),
        ("close", "<f8"),
        ("volume", "<f8"),
        ("trade_count", "<i8"),
        ("vwap", "<f8"),
        ("vwap_volume", "<f8"),
        ("revised", "?"),
        ("complete", "?"),
        ("recv_ts", "<i8"),
    ]
)
"""A published bar. `turn` is the number of the publishing round that made it."""

COUNT, CHANGED, CLOCK, SEEN, SEEN_RECV, GAP, GAP_OPEN = range(7)
LATE, OUT, TURN, TO_BUILD, BUILT, WHY, AT = range(7, 14)
"""Words in the head of one interval's bar table, in this order.

Number of bars; number changed since they were published; the stream's clock; time of the last trade seen,
and when it was received; the last gap, and whether it is still open; trades that came too late; rows in
`out`; publishing rounds; bars to rebuild, and the time for which some were rebuilt; why `join` stopped, and
before which trade of the batch.
"""
HEAD_WORDS = 14

DONE, FULL, ROOM, BUILD = range(4)
"""Why `join` stopped: at the end; no slot for another bar; no room for rows; bars must be rebuilt first."""

NEVER = -(1 << 62)

GAPS = 16
"""How many of the latest gaps are remembered, each as the first and last start of bars that may be
incomplete.
"""
LATENESS = 10 * SECOND
"""How late an exchange may report a trade. The first trade after a gap may be that much older."""

_GAP, _TICK, _TRADES = int(PartialKind.GAP), int(PartialKind.TICK), int(PartialKind.TRADES)
_CLOCK_DELAY = SECOND
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@inlined
def _place(symbol: Any, second: Any, bars: Any, table: Any) -> int:
    """Return the slot of a bar, or the slot where it would go."""
    mask = np.uint64(len(table) - 1)
    mixed = np.uint64(symbol) * _MULTIPLIER ^ np.uint64(second // SECOND)
    place = (mixed * _MULTIPLIER >> np.uint64(32)) & mask
    while True:
        slot = table[place]
        if slot < 0 or (bars[slot].symbol == symbol and bars[slot].second == second):
            return np.int64(place)
        place = np.uint64(place + np.uint64(1)) & mask


@inlined
def _plus(total: Any, more: Any) -> None:
    """Add the pair `more` to the pair `total`: two-sum of the heads, plain sum of the tails."""
    high = total[0]
    new = high + more[0]
    back = new - high
    total[0] = new
    total[1] += more[1] + ((high - (new - back)) + (more[0] - back))


@inlined
def _absorb(bar: Any, partial: Any) -> None:
    """Add a partial to a bar; the partial follows what the bar holds."""
    bar.trades += partial.trades
    bar.recv_ts = partial.recv_ts
    _plus(bar.volume, partial.volume)
    _plus(bar.notional, partial.notional)
    _plus(bar.weight, partial.weight)
    if partial.open == partial.open:
        if bar.open != bar.open:
            bar.open = partial.open
            bar.high = partial.high
            bar.low = partial.low
        else:
            bar.high = max(bar.high, partial.high)
            bar.low = min(bar.low, partial.low)
        bar.close = partial.close


@inlined
def _emit(bar: Any, row: Any, turn: int, midpoints: bool) -> bool:
    """Publish a bar as it is now.

    The service publishes no bar without a price and a volume, so neither do we. A bar whose trades were all
    cancelled after it was published is published again, empty.
    """
    volume = bar.volume[0] + bar.volume[1]
    is_bar = bar.open == bar.open and (midpoints or volume != 0.0)
    is_bar = is_bar and bar.open != 0.0 and bar.high != 0.0 and bar.low != 0.0 and bar.close != 0.0
    if not (is_bar or bar.flags & PUBLISHED):
        return False
    row.turn = turn
    row.symbol = bar.symbol
    row.ts = bar.second
    row.open = bar.open if is_bar else np.nan
    row.high = bar.high if is_bar else np.nan
    row.low = bar.low if is_bar else np.nan
    row.close = bar.close if is_bar else np.nan
    row.volume = volume
    row.trade_count = bar.trades
    weight = bar.weight[0] + bar.weight[1]
    row.vwap_volume = weight
    if weight != 0.0:
        row.vwap = (bar.notional[0] + bar.notional[1]) / weight
    elif not is_bar:
        row.vwap = np.nan
    else:
        row.vwap = 0.0 if midpoints else bar.close
    row.revised = bar.flags & PUBLISHED != 0
    row.complete = bar.flags & INCOMPLETE == 0
    row.recv_ts = bar.recv_ts
    bar.flags |= PUBLISHED
    return True


@inlined
def _publish(
    before: int, midpoints: bool, bars: Any, changed: Any, head: Any, out: Any, interval: int
) -> None:
    """Publish all changed bars that ended by `before`."""
    kept = 0
    for index in range(head[CHANGED]):
        slot = changed[index]
        bar = bars[slot]
        if bar.second + interval > before:
            changed[kept] = slot
            kept += 1
            continue
        bar.flags &= ~DIRTY
        if _emit(bar, out[head[OUT]], head[TURN], midpoints):
            head[OUT] += 1
    head[CHANGED] = kept
    head[TURN] += 1


@inlined
def _note_change(slot: int, bars: Any, changed: Any, head: Any) -> None:
    """Mark a bar to be published when it is over."""
    if not bars[slot].flags & DIRTY:
        bars[slot].flags |= DIRTY
        changed[head[CHANGED]] = slot
        head[CHANGED] += 1


@inlined
def _is_in_gap(start: int, gaps: Any, head: Any) -> bool:
    """Return whether a bar that starts at `start` may be incomplete."""
    for gap in range(min(head[GAP] + 1, GAPS)):  # noqa: SIM110  Numba has no generators
        if gaps[gap, 0] <= start <= gaps[gap, 1]:
            return True
    return False


@called
def _begin_gap(interval: int, bars: Any, changed: Any, gaps: Any, head: Any) -> None:
    """Begin a gap after the last trades seen.

    Bars that were published since then, because the clock went on, are published once more as incomplete.
    """
    head[GAP_OPEN] = 1
    head[GAP] += 1
    start = head[SEEN] - head[SEEN] % interval
    gaps[head[GAP] % GAPS, 0] = start
    gaps[head[GAP] % GAPS, 1] = -NEVER
    for slot in range(head[COUNT]):
        if bars[slot].second >= start:
            bars[slot].flags |= INCOMPLETE
            if bars[slot].flags & PUBLISHED:
                _note_change(slot, bars, changed, head)


@kernel
def join(
    partials: Any,
    first: int,
    interval: int,
    every: int,
    horizon: int,
    midpoints: bool,
    bars: Any,
    table: Any,
    changed: Any,
    gaps: Any,
    head: Any,
    out: Any,
) -> int:
    """Join `partials` from `first` on to bars of `interval` ns; return the index of the first one not
    joined.

    When the stream's clock passes a multiple of `every` ns, bars that are over and have changed become rows
    of `out`. Trades that are `horizon` ns late are counted and change nothing.
    """
    head[WHY] = DONE
    for index in range(first, len(partials)):
        partial = partials[index]
        kind = partial.kind
        if kind == _GAP:
            if not head[GAP_OPEN]:  # otherwise the gap stays open
                _begin_gap(interval, bars, changed, gaps, head)
            continue
        if kind == _TICK:
            if head[CLOCK] == NEVER:
                continue
            now = head[SEEN] + (partial.begun - head[SEEN_RECV]) - _CLOCK_DELAY
            now -= now % SECOND
        else:
            now = partial.second if kind == _TRADES else np.int64(NEVER)
        if now > head[CLOCK]:
            due = head[CLOCK] // every != now // every
            if due and head[TO_BUILD] and head[BUILT] != now:
                head[BUILT] = now
                head[WHY] = BUILD
                head[AT] = partial.row
                return index
            if due and head[OUT] + head[CHANGED] > len(out):
                head[WHY] = ROOM
                return index
            head[CLOCK] = now
            if kind == _TRADES:
                head[SEEN] = now
                head[SEEN_RECV] = partial.begun
            if due:
                _publish(now, midpoints, bars, changed, head, out, interval)
            if head[GAP_OPEN] and kind == _TRADES:
                head[GAP_OPEN] = 0
                gaps[head[GAP] % GAPS, 1] = (now + LATENESS) - (now + LATENESS) % interval
        if kind == _TICK:
            continue
        start = partial.second - partial.second % interval
        if start + interval <= head[CLOCK] - horizon:
            head[LATE] += partial.trades
            continue
        place = _place(partial.symbol, start, bars, table)
        slot = np.int64(table[place])
        if slot < 0:
            if head[COUNT] >= len(bars):
                head[WHY] = FULL
                return index
            slot = head[COUNT]
            head[COUNT] += 1
            table[place] = slot
            begin(bars[slot], partial.symbol, start)
            bars[slot].flags = 0
            if _is_in_gap(start, gaps, head):
                bars[slot].flags |= INCOMPLETE
        bar = bars[slot]
        _absorb(bar, partial)
        _note_change(slot, bars, changed, head)
    return len(partials)


@kernel
def close(interval: int, midpoints: bool, bars: Any, changed: Any, head: Any, out: Any) -> None:
    """Publish all changed bars, over or not. `out` must have room for them."""
    for number in range(head[CHANGED]):
        bar = bars[changed[number]]
        if bar.second + interval > head[CLOCK]:
            bar.flags |= INCOMPLETE
    _publish(np.int64(1) << np.int64(62), midpoints, bars, changed, head, out, interval)


@kernel
def index(bars: Any, table: Any, changed: Any, head: Any) -> None:
    """Rebuild the hash table, and the list of changed bars, from the bars that exist."""
    table[:] = -1
    head[CHANGED] = 0
    for slot in range(head[COUNT]):
        bar = bars[slot]
        table[_place(bar.symbol, bar.second, bars, table)] = slot
        if bar.flags & DIRTY:
            changed[head[CHANGED]] = slot
            head[CHANGED] += 1


@kernel
def touch(
    symbol: int, start: int, recv: int, bars: Any, table: Any, changed: Any, gaps: Any, head: Any
) -> int:
    """Mark a bar to be rebuilt before the next bars are published.

    Return its slot if the bar is new, otherwise -1. The table must have a free slot.
    """
    place = _place(np.uint32(symbol), np.int64(start), bars, table)
    slot = np.int64(table[place])
    is_new = slot < 0
    if is_new:
        slot = head[COUNT]
        head[COUNT] += 1
        table[place] = slot
        begin(bars[slot], np.uint32(symbol), np.int64(start))
        bars[slot].flags = INCOMPLETE if _is_in_gap(start, gaps, head) else 0
        bars[slot].recv_ts = recv
    bar = bars[slot]
    bar.recv_ts = max(bar.recv_ts, recv)
    if not bar.flags & STALE:
        bar.flags |= STALE
        head[TO_BUILD] += 1
    _note_change(slot, bars, changed, head)
    return slot if is_new else np.int64(-1)


@kernel
def build(interval: int, partials: Any, bars: Any, table: Any, changed: Any, slots: Any, head: Any) -> None:
    """Rebuild the bars in `slots` from all partials of their symbols."""
    for slot in slots:
        bar = bars[slot]
        begin(bar, bar.symbol, bar.second)
        bar.flags |= BUILDING
    for index in range(len(partials)):
        partial = partials[index]
        start = partial.second - partial.second % interval
        slot = np.int64(table[_place(partial.symbol, start, bars, table)])
        if slot >= 0 and bars[slot].flags & BUILDING:
            recv = bars[slot].recv_ts
            _absorb(bars[slot], partial)
            bars[slot].recv_ts = max(recv, partial.recv_ts)
    for slot in slots:
        bar = bars[slot]
        bar.flags &= ~(STALE | BUILDING)
        head[TO_BUILD] -= 1
        _note_change(slot, bars, changed, head)


@kernel
def find(
    symbols: Any,
    exchanges: Any,
    ids: Any,
    prices: Any,
    sizes: Any,
    rows: int,
    symbol: int,
    exchange: int,
    number: Any,
    price: float,
    size: float,
) -> int:
    """Find the last of `rows` trades that is `number` of `symbol` on `exchange`, at this price and size.

    Return its row; where only trades of another price or size have that number, -2 less the row of the
    last of these; -1 where none has it.
    """
    other = -1
    for row in range(rows - 1, -1, -1):
        if ids[row] == number and symbols[row] == symbol and exchanges[row] == exchange:
            if prices[row] == price and sizes[row] == size:
                return row
            if other == -1:
                other = -2 - row
    return other


@kernel
def select(symbols: Any, times: Any, rows: int, wanted: Any, first: int, end: int, out: Any) -> int:
    """Select trades of wanted symbols (one flag per symbol) from `first` to `end` into `out`; return their
    number.
    """
    count = 0
    for row in range(rows):
        if symbols[row] < len(wanted) and wanted[symbols[row]] and first <= times[row] < end:
            out[count] = row
            count += 1
    return count
