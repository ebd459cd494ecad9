"""Trades and midpoints of a batch to partials, on the direct path.

The rules are those of `aggregation.aggregate`, which also learns the effects of trades.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels import address_table as t
from workers.kernels import bar_table, partials
from workers.kernels import columns as plans
from workers.kernels.columns import PLAN_WIDTH
from workers.kernels.compiling import called, inlined
from workers.kernels.direct_layout import BASE, CHANNEL_WIDTH, mask_of, missing_in, values_at
from workers.kernels.partials import TAPES, UNKNOWN
from workers.kernels.words import as_float64, as_int64, as_uint16, as_uint32, as_uint64

# Columns of trades and quotes that bars need; -1 if there is none.
SYMBOL, TIME, PRICE, VOLUME, RECEIPT, CONDITIONS, TAPE, MARK = range(8)
BID, ASK = 2, 3
_LAST = np.int64((1 << 63) - 1)


@called
def _add_trade(table: Any, row: int, event: int) -> bool:
    """Add a trade to the events; return whether its effect is known."""
    number = table[t.TRADES]
    trade = t.trade(table)
    area, symbols = values_at(table, number, trade[SYMBOL])
    _, times = values_at(table, number, trade[TIME])
    _, prices = values_at(table, number, trade[PRICE])
    _, volumes = values_at(table, number, trade[VOLUME])
    _, receipts = values_at(table, number, trade[RECEIPT])
    effect = np.int64(partials.ALL)
    if trade[CONDITIONS] >= 0:
        conditions, tape = np.int64(0), np.int64(0)
        column = trade[CONDITIONS]
        if not missing_in(table, number, column) or mask_of(table, number, column)[row]:
            _, place = values_at(table, number, column)
            conditions = np.int64(as_uint16(area, place)[row]) + 1
        if trade[TAPE] >= 0 and (
            not missing_in(table, number, trade[TAPE]) or mask_of(table, number, trade[TAPE])[row]
        ):
            _, place = values_at(table, number, trade[TAPE])
            tape = np.int64(as_uint16(area, place)[row]) + 1
        effects = t.effects(table)
        if tape >= TAPES or conditions * TAPES + tape >= len(effects):
            return False
        effect = np.int64(effects[conditions * TAPES + tape])
        if effect == UNKNOWN:
            return False
    if trade[MARK] >= 0:
        lacking = missing_in(table, number, trade[MARK])
        if lacking == 0 or mask_of(table, number, trade[MARK])[row]:
            return False
    for column in (trade[PRICE], trade[VOLUME]):
        if missing_in(table, number, column) and not mask_of(table, number, column)[row]:
            effect = np.int64(partials.NOTHING)
    t.symbols(table)[event] = as_uint32(area, symbols)[row]
    t.times(table)[event] = as_int64(area, times)[row]
    t.prices(table)[event] = as_float64(area, prices)[row]
    kind = t.plans(table)[(_base(table, number) + trade[VOLUME]) * PLAN_WIDTH + plans.KIND]
    if kind == plans.FLOAT:
        t.volumes(table)[event] = as_float64(area, volumes)[row]
    elif kind == plans.INT:
        t.volumes(table)[event] = np.float64(as_int64(area, volumes)[row])
    else:
        t.volumes(table)[event] = np.float64(as_uint64(area, volumes)[row])
    t.kinds(table)[event] = effect
    t.receipts(table)[event] = as_int64(area, receipts)[row]
    return True


@called
def _add_quote(table: Any, row: int, event: int) -> None:
    """Add the midpoint of a quote to the events."""
    number = table[t.MIDPOINTS]
    quote = t.quote(table)
    area, symbols = values_at(table, number, quote[SYMBOL])
    _, times = values_at(table, number, quote[TIME])
    _, bids = values_at(table, number, quote[BID])
    _, asks = values_at(table, number, quote[ASK])
    _, receipts = values_at(table, number, quote[RECEIPT])
    effect = np.int64(partials.MIDPOINT)
    for column in (quote[BID], quote[ASK]):
        if missing_in(table, number, column) and not mask_of(table, number, column)[row]:
            effect = np.int64(partials.NOTHING)
    t.symbols(table)[event] = as_uint32(area, symbols)[row]
    t.times(table)[event] = as_int64(area, times)[row]
    t.prices(table)[event] = (as_float64(area, bids)[row] + as_float64(area, asks)[row]) / 2
    t.volumes(table)[event] = 0.0
    t.kinds(table)[event] = effect
    t.receipts(table)[event] = as_int64(area, receipts)[row]


@called
def _add_tick(table: Any, payload: int, event: int) -> None:
    """Add a tick to the events."""
    received = t.received(table)[payload]
    t.symbols(table)[event] = 0
    t.times(table)[event] = t.receipts(table)[event] = received
    t.prices(table)[event] = t.volumes(table)[event] = 0.0
    t.kinds(table)[event] = partials.TICK


@inlined
def _base(table: Any, number: int) -> int:
    return t.channels(table)[number * CHANNEL_WIDTH + BASE]


@inlined
def _order(table: Any, number: int, row: int) -> int:
    """Return a number by which rows of all channels are in the order of receipt."""
    place = number * table[t.ROOM] + row
    return np.int64(t.row_payload(table)[place]) << 32 | np.int64(t.row_message(table)[place])


@called
def fold(table: Any, out: Any) -> bool:
    """Fold trades, midpoints and ticks to partials in `out`; return whether all are usual."""
    rows = t.rows(table)
    table[t.PARTIALS] = 0
    trades = rows[table[t.TRADES]] if table[t.TRADES] >= 0 else np.int64(0)
    quotes = rows[table[t.MIDPOINTS]] if table[t.MIDPOINTS] >= 0 else np.int64(0)
    ticks = table[t.TICKS]
    count = trades + quotes + ticks
    if count == 0:
        return True
    trade, quote, tick = 0, 0, 0
    for event in range(count):
        next_trade = _order(table, table[t.TRADES], trade) if trade < trades else _LAST
        next_quote = _order(table, table[t.MIDPOINTS], quote) if quote < quotes else _LAST
        next_tick = t.ticks(table)[tick] << 32 if tick < ticks else _LAST
        if next_trade < next_quote and next_trade < next_tick:
            if not _add_trade(table, trade, event):
                return False
            trade += 1
        elif next_quote < next_tick:
            _add_quote(table, quote, event)
            quote += 1
        else:
            _add_tick(table, t.ticks(table)[tick], event)
            tick += 1
    room = 16
    while room <= 2 * count:
        room *= 2
    table[t.PARTIALS] = partials.fold(
        t.symbols(table)[:count],
        t.times(table)[:count],
        t.prices(table)[:count],
        t.volumes(table)[:count],
        t.kinds(table)[:count],
        t.receipts(table)[:count],
        t.places(table)[:room],
        t.whose(table)[:room],
        out,
    )
    return True


# Words of the bars of one length, in `address_table.intervals`.
INTERVAL, EVERY, HORIZON, MIDPOINTS = range(4)
INTERVAL_WIDTH = 4


def _make_join(number: int) -> Any:
    """Return the kernel that joins partials to the bars of one length."""
    bars, slots, changed = t.bars[number], t.bar_slots[number], t.changed_bars[number]
    gaps, heads, rows = t.gaps[number], t.bar_heads[number], t.bar_rows[number]
    first, joined = number * INTERVAL_WIDTH, t.JOINED + number

    @called
    def join(table: Any, partials: Any) -> bool:
        """Join the partials; return whether the builder has something to do now (`aggregation.bars`)."""
        head, words, count = heads(table), t.intervals(table), table[t.PARTIALS]
        table[joined] = count
        if not len(head) or not count:
            return False
        table[joined] = bar_table.join(
            partials[:count],
            0,
            words[first + INTERVAL],
            words[first + EVERY],
            words[first + HORIZON],
            words[first + MIDPOINTS] != 0,
            bars(table),
            slots(table),
            changed(table),
            gaps(table).reshape((-1, 2)),
            head,
            rows(table),
        )
        return head[bar_table.OUT] != 0 or table[joined] != count

    return join


_join_0, _join_1 = _make_join(0), _make_join(1)


@called
def join(table: Any, partials: Any) -> bool:
    """Join the partials to the bars of all lengths; return whether the builder has something to do now."""
    first = _join_0(table, partials)
    return _join_1(table, partials) or first
