"""The direct path of order books: changes of levels go to the ladders, and the best levels to their frame.

The rows are those of a batch at the end of their frame (`direct_layout.values_at`); booleans are in
scratch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.streams.books import BOOK_DEPTH
from workers.kernels import address_table as t
from workers.kernels import ladder
from workers.kernels.columns import PLAN_WIDTH, SLOT
from workers.kernels.compiling import called, inlined
from workers.kernels.direct_layout import BASE, CHANNEL_WIDTH, bools_of, publish_keyed, values_at
from workers.kernels.words import as_float64, as_int64, as_uint8, as_uint16, as_uint32, as_uint64, raw

# Words of `level`: columns of the channel.
SYMBOL, SIDE, PRICE, SIZE, RESET, TIME, RECEIVED = range(7)
LEVEL_COLUMNS = ("symbol", "side", "price", "size", "reset", "ts", "recv_ts")

# `side_codes` has the code of each side by its number in a span, from 1 on; -1 if it has none yet.

# Words of a column of the books' frame. Columns are in their order, without the symbol and the version.
VALUES, BITS, PRESENT = 0, 1, 2
"""Bytes where its values and its null bits begin; where `KeyedFrameWriter` notes which are present."""
SHOWN_WIDTH = 3


@inlined
def _column(table: Any, which: int) -> tuple[Any, int]:
    return values_at(table, table[t.BOOKS], t.level(table)[which])


@called
def _write_sides(table: Any, rows: int, codes: Any) -> bool:
    """Write the codes of the rows' sides, which have no text in payloads; return whether all have one."""
    column = t.channels(table)[table[t.BOOKS] * CHANNEL_WIDTH + BASE] + t.level(table)[SIDE]
    first = t.plans(table)[column * PLAN_WIDTH + SLOT] * table[t.ROOM]
    spans, known = t.spans(table), t.side_codes(table)
    for row in range(rows):
        code = known[np.int64(spans[first + row])]
        if code < 0 or code >= len(t.asks(table)):
            return False
        codes[row] = code
    return True


@called
def have_room(table: Any) -> bool:
    """Write the sides of the batch's levels; return whether the books know them, and have room for all."""
    number = table[t.BOOKS]
    if number < 0 or not t.rows(table)[number]:
        return True
    rows = t.rows(table)[number]
    room = min(table[t.SHOWN_ROOM], np.int64(len(t.complete(table))))
    area, symbol = _column(table, SYMBOL)
    _, side = _column(table, SIDE)
    _, price = _column(table, PRICE)
    symbols, codes, prices = as_uint32(area, symbol), as_uint16(area, side), as_float64(area, price)
    if not _write_sides(table, rows, codes):
        return False
    for row in range(rows):
        if symbols[row] >= room or prices[row] != prices[row]:
            return False
    lacking = ladder.reserve(
        rows,
        symbols,
        codes,
        raw(t.valid(table)),
        raw(t.asks(table)),
        raw(t.sides(table)),
        raw(t.totals(table)),
        t.level_prices(table),
        t.level_sizes(table),
    )
    return lacking == 0


@called
def update_books(table: Any) -> None:
    """Apply the batch, whose rows are published, message by message; then show what it has changed."""
    number = table[t.BOOKS]
    if number < 0 or not t.rows(table)[number]:
        return
    rows = t.rows(table)[number]
    payloads = t.row_payload(table)[number * table[t.ROOM] :]
    messages = t.row_message(table)[number * table[t.ROOM] :]
    area, symbol = _column(table, SYMBOL)
    _, side = _column(table, SIDE)
    _, price = _column(table, PRICE)
    _, size = _column(table, SIZE)
    symbols, codes = as_uint32(area, symbol), as_uint16(area, side)
    valid, asks = raw(t.valid(table)), raw(t.asks(table))
    sides, edges, complete = raw(t.sides(table)), raw(t.edges(table)), raw(t.complete(table))
    first = np.int64(0)
    for row in range(1, rows + 1):
        if row < rows and payloads[row] == payloads[first] and messages[row] == messages[first]:
            continue
        ladder.change(
            first,
            row,
            symbols,
            codes,
            as_float64(area, price),
            as_float64(area, size),
            raw(bools_of(table, number, t.level(table)[RESET])),
            valid,
            asks,
            sides,
            edges,
            complete,
            t.level_prices(table),
            t.level_sizes(table),
        )
        first = row
    totals = raw(t.totals(table))
    ladder.bound(rows, symbols, codes, valid, asks, sides, edges, totals, t.level_prices(table))
    _show_changed(table, rows, symbols)


@called
def _show_changed(table: Any, rows: int, symbols: Any) -> None:
    """Write the books of `symbols` to the frame, each with the times of its last row."""
    sides = t.sides(table)
    area, time = _column(table, TIME)
    _, received = _column(table, RECEIVED)
    times, receipts = as_int64(area, time), as_int64(area, received)
    needed = np.int64(0)
    for row in range(rows - 1, -1, -1):
        symbol = np.int64(symbols[row])
        seen = 2 * symbol * ladder.SIDE_WIDTH + ladder.FRESH
        if not sides[seen]:
            sides[seen] = 1
            needed = max(needed, symbol + 1)
            _show(table, symbol, times[row], receipts[row])
    for row in range(rows):
        sides[2 * np.int64(symbols[row]) * ladder.SIDE_WIDTH + ladder.FRESH] = 0
    publish_keyed(t.shown_head(table), needed)


@called
def _show(table: Any, symbol: int, time: int, receipt: int) -> None:
    """Write the best levels of a book to its row."""
    frame, prices, sizes = raw(t.shown(table)), t.level_prices(table), t.level_sizes(table)
    versions = as_uint64(frame, table[t.SHOWN_VERSIONS])
    version = versions[symbol] | np.uint64(1)
    versions[symbol] = version
    t.fence()
    _put(table, 0, symbol, time)
    _put(table, 1, symbol, receipt)
    is_whole = ladder.is_complete(symbol, t.sides(table), t.edges(table), t.complete(table), prices)
    _put(table, 2, symbol, np.int64(is_whole))
    column = np.int64(3)
    for asks in range(2):
        side = (2 * symbol + asks) * ladder.SIDE_WIDTH
        start, count = t.sides(table)[side + ladder.START], t.sides(table)[side + ladder.COUNT]
        _put(table, column, symbol, count)
        column += 1
        for level in range(BOOK_DEPTH):
            if level < count:
                price = prices[start + level]
                _put_level(table, column, symbol, price if asks else -price, True)
                _put_level(table, column + 1, symbol, sizes[start + level], True)
            else:
                _put_level(table, column, symbol, 0.0, False)
                _put_level(table, column + 1, symbol, 0.0, False)
            column += 2
    t.fence()
    versions[symbol] = version + np.uint64(1)


@inlined
def _put(table: Any, column: int, symbol: int, value: int) -> None:
    """Write an integer."""
    as_int64(raw(t.shown(table)), t.shown_columns(table)[column * SHOWN_WIDTH + VALUES])[symbol] = value
    _mark(table, column, symbol, True)


@inlined
def _put_level(table: Any, column: int, symbol: int, value: float, is_present: bool) -> None:
    """Write the price or the size of a level, or that there is no such level."""
    as_float64(raw(t.shown(table)), t.shown_columns(table)[column * SHOWN_WIDTH + VALUES])[symbol] = value
    _mark(table, column, symbol, is_present)


@called
def _mark(table: Any, column: int, symbol: int, is_present: bool) -> None:
    """Set whether a value is present."""
    columns = t.shown_columns(table)
    t.shown_present(table)[columns[column * SHOWN_WIDTH + PRESENT] + symbol] = is_present
    start = columns[column * SHOWN_WIDTH + BITS]
    if start < 0:
        return
    bits, bit = as_uint8(raw(t.shown(table)), start), np.uint8(1 << (symbol & 7))
    if is_present:
        bits[symbol >> 3] |= bit
    else:
        bits[symbol >> 3] &= np.uint8(255) ^ bit
