"""Trades and midpoints of a batch to partials, on the direct path.

The rules are those of `aggregation.aggregate`, which also learns the effects of trades.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels import bar_table, partials
from workers.kernels import book as b
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
def _add_trade(book: Any, row: int, event: int) -> bool:
    """Add a trade to the events; return whether its effect is known."""
    number = book[b.TRADES]
    trade = b.trade(book)
    area, symbols = values_at(book, number, trade[SYMBOL])
    _, times = values_at(book, number, trade[TIME])
    _, prices = values_at(book, number, trade[PRICE])
    _, volumes = values_at(book, number, trade[VOLUME])
    _, receipts = values_at(book, number, trade[RECEIPT])
    effect = np.int64(partials.ALL)
    if trade[CONDITIONS] >= 0:
        conditions, tape = np.int64(0), np.int64(0)
        if not missing_in(book, number, trade[CONDITIONS]) or mask_of(book, number, trade[CONDITIONS])[row]:
            _, place = values_at(book, number, trade[CONDITIONS])
            conditions = np.int64(as_uint16(area, place)[row]) + 1
        if trade[TAPE] >= 0 and (
            not missing_in(book, number, trade[TAPE]) or mask_of(book, number, trade[TAPE])[row]
        ):
            _, place = values_at(book, number, trade[TAPE])
            tape = np.int64(as_uint16(area, place)[row]) + 1
        effects = b.effects(book)
        if tape >= TAPES or conditions * TAPES + tape >= len(effects):
            return False
        effect = np.int64(effects[conditions * TAPES + tape])
        if effect == UNKNOWN:
            return False
    if trade[MARK] >= 0:
        lacking = missing_in(book, number, trade[MARK])
        if lacking == 0 or mask_of(book, number, trade[MARK])[row]:
            return False
    for column in (trade[PRICE], trade[VOLUME]):
        if missing_in(book, number, column) and not mask_of(book, number, column)[row]:
            effect = np.int64(partials.NOTHING)
    b.symbols(book)[event] = as_uint32(area, symbols)[row]
    b.times(book)[event] = as_int64(area, times)[row]
    b.prices(book)[event] = as_float64(area, prices)[row]
    kind = b.plans(book)[(_base(book, number) + trade[VOLUME]) * PLAN_WIDTH + plans.KIND]
    if kind == plans.FLOAT:
        b.volumes(book)[event] = as_float64(area, volumes)[row]
    elif kind == plans.INT:
        b.volumes(book)[event] = np.float64(as_int64(area, volumes)[row])
    else:
        b.volumes(book)[event] = np.float64(as_uint64(area, volumes)[row])
    b.kinds(book)[event] = effect
    b.receipts(book)[event] = as_int64(area, receipts)[row]
    return True


@called
def _add_quote(book: Any, row: int, event: int) -> None:
    """Add the midpoint of a quote to the events."""
    number = book[b.MIDPOINTS]
    quote = b.quote(book)
    area, symbols = values_at(book, number, quote[SYMBOL])
    _, times = values_at(book, number, quote[TIME])
    _, bids = values_at(book, number, quote[BID])
    _, asks = values_at(book, number, quote[ASK])
    _, receipts = values_at(book, number, quote[RECEIPT])
    effect = np.int64(partials.MIDPOINT)
    for column in (quote[BID], quote[ASK]):
        if missing_in(book, number, column) and not mask_of(book, number, column)[row]:
            effect = np.int64(partials.NOTHING)
    b.symbols(book)[event] = as_uint32(area, symbols)[row]
    b.times(book)[event] = as_int64(area, times)[row]
    b.prices(book)[event] = (as_float64(area, bids)[row] + as_float64(area, asks)[row]) / 2
    b.volumes(book)[event] = 0.0
    b.kinds(book)[event] = effect
    b.receipts(book)[event] = as_int64(area, receipts)[row]


@called
def _add_tick(book: Any, payload: int, event: int) -> None:
    """Add a tick to the events."""
    received = b.received(book)[payload]
    b.symbols(book)[event] = 0
    b.times(book)[event] = b.receipts(book)[event] = received
    b.prices(book)[event] = b.volumes(book)[event] = 0.0
    b.kinds(book)[event] = partials.TICK


@inlined
def _base(book: Any, number: int) -> int:
    return b.channels(book)[number * CHANNEL_WIDTH + BASE]


@inlined
def _order(book: Any, number: int, row: int) -> int:
    """Return a number by which rows of all channels are in the order of receipt."""
    place = number * book[b.ROOM] + row
    return np.int64(b.row_payload(book)[place]) << 32 | np.int64(b.row_message(book)[place])


@called
def fold(book: Any, out: Any) -> bool:
    """Fold trades, midpoints and ticks to partials in `out`; return whether all are usual."""
    rows = b.rows(book)
    book[b.PARTIALS] = 0
    trades = rows[book[b.TRADES]] if book[b.TRADES] >= 0 else np.int64(0)
    quotes = rows[book[b.MIDPOINTS]] if book[b.MIDPOINTS] >= 0 else np.int64(0)
    ticks = book[b.TICKS]
    count = trades + quotes + ticks
    if count == 0:
        return True
    trade, quote, tick = 0, 0, 0
    for event in range(count):
        next_trade = _order(book, book[b.TRADES], trade) if trade < trades else _LAST
        next_quote = _order(book, book[b.MIDPOINTS], quote) if quote < quotes else _LAST
        next_tick = b.ticks(book)[tick] << 32 if tick < ticks else _LAST
        if next_trade < next_quote and next_trade < next_tick:
            if not _add_trade(book, trade, event):
                return False
            trade += 1
        elif next_quote < next_tick:
            _add_quote(book, quote, event)
            quote += 1
        else:
            _add_tick(book, b.ticks(book)[tick], event)
            tick += 1
    room = 16
    while room <= 2 * count:
        room *= 2
    book[b.PARTIALS] = partials.fold(
        b.symbols(book)[:count],
        b.times(book)[:count],
        b.prices(book)[:count],
        b.volumes(book)[:count],
        b.kinds(book)[:count],
        b.receipts(book)[:count],
        b.places(book)[:room],
        b.whose(book)[:room],
        out,
    )
    return True


# Words of the bars of one length, in `book.intervals`.
INTERVAL, EVERY, HORIZON, MIDPOINTS = range(4)
INTERVAL_WIDTH = 4


def _make_join(number: int) -> Any:
    """Return the kernel that joins partials to the bars of one length."""
    bars, slots, changed = b.bars[number], b.bar_slots[number], b.changed_bars[number]
    gaps, heads, rows = b.gaps[number], b.bar_heads[number], b.bar_rows[number]
    first, joined = number * INTERVAL_WIDTH, b.JOINED + number

    @called
    def join(book: Any, partials: Any) -> bool:
        """Join the partials; return whether the builder has something to do now (`aggregation.bars`)."""
        head, words, count = heads(book), b.intervals(book), book[b.PARTIALS]
        book[joined] = count
        if not len(head) or not count:
            return False
        book[joined] = bar_table.join(
            partials[:count],
            0,
            words[first + INTERVAL],
            words[first + EVERY],
            words[first + HORIZON],
            words[first + MIDPOINTS] != 0,
            bars(book),
            slots(book),
            changed(book),
            gaps(book).reshape((-1, 2)),
            head,
            rows(book),
        )
        return head[bar_table.OUT] != 0 or book[joined] != count

    return join


_join_0, _join_1 = _make_join(0), _make_join(1)


@called
def join(book: Any, partials: Any) -> bool:
    """Join the partials to the bars of all lengths; return whether the builder has something to do now."""
    first = _join_0(book, partials)
    return _join_1(book, partials) or first
