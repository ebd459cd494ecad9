"""The direct path of order books: changes of levels go to the ladders, and the best levels to their frame.

The rows are those of a batch at the end of their frame (`direct_layout.values_at`); booleans are in
scratch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.streams.books import BOOK_DEPTH
from workers.kernels import book as b
from workers.kernels import ladder
from workers.kernels.columns import PLAN_WIDTH, SLOT
from workers.kernels.compiling import called, inlined
from workers.kernels.direct_layout import BASE, CHANNEL_WIDTH, bools_of, publish_keyed, values_at
from workers.kernels.words import as_float64, as_int64, as_uint8, as_uint16, as_uint32, as_uint64, raw

# Words of `book.level`: columns of the channel.
SYMBOL, SIDE, PRICE, SIZE, RESET, TIME, RECEIVED = range(7)
LEVEL_COLUMNS = ("symbol", "side", "price", "size", "reset", "ts", "recv_ts")

# `book.side_codes` has the code of each side by its number in a span, from 1 on; -1 if it has none yet.

# Words of a column of the books' frame. Columns are in their order, without the symbol and the version.
VALUES, BITS, PRESENT = 0, 1, 2
"""Bytes where its values and its null bits begin; where `KeyedFrameWriter` notes which are present."""
SHOWN_WIDTH = 3


@inlined
def _column(book: Any, which: int) -> tuple[Any, int]:
    return values_at(book, book[b.BOOKS], b.level(book)[which])


@called
def _write_sides(book: Any, rows: int, codes: Any) -> bool:
    """Write the codes of the rows' sides, which have no text in payloads; return whether all have one."""
    column = b.channels(book)[book[b.BOOKS] * CHANNEL_WIDTH + BASE] + b.level(book)[SIDE]
    first = b.plans(book)[column * PLAN_WIDTH + SLOT] * book[b.ROOM]
    spans, known = b.spans(book), b.side_codes(book)
    for row in range(rows):
        code = known[np.int64(spans[first + row])]
        if code < 0 or code >= len(b.asks(book)):
            return False
        codes[row] = code
    return True


@called
def have_room(book: Any) -> bool:
    """Write the sides of the batch's levels; return whether the books know them, and have room for all."""
    number = book[b.BOOKS]
    if number < 0 or not b.rows(book)[number]:
        return True
    rows = b.rows(book)[number]
    room = min(book[b.SHOWN_ROOM], np.int64(len(b.complete(book))))
    area, symbol = _column(book, SYMBOL)
    _, side = _column(book, SIDE)
    _, price = _column(book, PRICE)
    symbols, codes, prices = as_uint32(area, symbol), as_uint16(area, side), as_float64(area, price)
    if not _write_sides(book, rows, codes):
        return False
    for row in range(rows):
        if symbols[row] >= room or prices[row] != prices[row]:
            return False
    lacking = ladder.reserve(
        rows,
        symbols,
        codes,
        raw(b.valid(book)),
        raw(b.asks(book)),
        raw(b.sides(book)),
        raw(b.totals(book)),
        b.level_prices(book),
        b.level_sizes(book),
    )
    return lacking == 0


@called
def update_books(book: Any) -> None:
    """Apply the batch, whose rows are published, message by message; then show what it has changed."""
    number = book[b.BOOKS]
    if number < 0 or not b.rows(book)[number]:
        return
    rows = b.rows(book)[number]
    payloads = b.row_payload(book)[number * book[b.ROOM] :]
    messages = b.row_message(book)[number * book[b.ROOM] :]
    area, symbol = _column(book, SYMBOL)
    _, side = _column(book, SIDE)
    _, price = _column(book, PRICE)
    _, size = _column(book, SIZE)
    symbols, codes = as_uint32(area, symbol), as_uint16(area, side)
    valid, asks = raw(b.valid(book)), raw(b.asks(book))
    sides, edges, complete = raw(b.sides(book)), raw(b.edges(book)), raw(b.complete(book))
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
            raw(bools_of(book, number, b.level(book)[RESET])),
            valid,
            asks,
            sides,
            edges,
            complete,
            b.level_prices(book),
            b.level_sizes(book),
        )
        first = row
    ladder.bound(rows, symbols, codes, valid, asks, sides, edges, raw(b.totals(book)), b.level_prices(book))
    _show_changed(book, rows, symbols)


@called
def _show_changed(book: Any, rows: int, symbols: Any) -> None:
    """Write the books of `symbols` to the frame, each with the times of its last row."""
    sides = b.sides(book)
    area, time = _column(book, TIME)
    _, received = _column(book, RECEIVED)
    times, receipts = as_int64(area, time), as_int64(area, received)
    needed = np.int64(0)
    for row in range(rows - 1, -1, -1):
        symbol = np.int64(symbols[row])
        seen = 2 * symbol * ladder.SIDE_WIDTH + ladder.FRESH
        if not sides[seen]:
            sides[seen] = 1
            needed = max(needed, symbol + 1)
            _show(book, symbol, times[row], receipts[row])
    for row in range(rows):
        sides[2 * np.int64(symbols[row]) * ladder.SIDE_WIDTH + ladder.FRESH] = 0
    publish_keyed(b.shown_head(book), needed)


@called
def _show(book: Any, symbol: int, time: int, receipt: int) -> None:
    """Write the best levels of a book to its row."""
    frame, prices, sizes = raw(b.shown(book)), b.level_prices(book), b.level_sizes(book)
    versions = as_uint64(frame, book[b.SHOWN_VERSIONS])
    version = versions[symbol] | np.uint64(1)
    versions[symbol] = version
    b.fence()
    _put(book, 0, symbol, time)
    _put(book, 1, symbol, receipt)
    is_whole = ladder.is_complete(symbol, b.sides(book), b.edges(book), b.complete(book), prices)
    _put(book, 2, symbol, np.int64(is_whole))
    column = np.int64(3)
    for asks in range(2):
        side = (2 * symbol + asks) * ladder.SIDE_WIDTH
        start, count = b.sides(book)[side + ladder.START], b.sides(book)[side + ladder.COUNT]
        _put(book, column, symbol, count)
        column += 1
        for level in range(BOOK_DEPTH):
            if level < count:
                price = prices[start + level]
                _put_level(book, column, symbol, price if asks else -price, True)
                _put_level(book, column + 1, symbol, sizes[start + level], True)
            else:
                _put_level(book, column, symbol, 0.0, False)
                _put_level(book, column + 1, symbol, 0.0, False)
            column += 2
    b.fence()
    versions[symbol] = version + np.uint64(1)


@inlined
def _put(book: Any, column: int, symbol: int, value: int) -> None:
    """Write an integer."""
    as_int64(raw(b.shown(book)), b.shown_columns(book)[column * SHOWN_WIDTH + VALUES])[symbol] = value
    _mark(book, column, symbol, True)


@inlined
def _put_level(book: Any, column: int, symbol: int, value: float, is_present: bool) -> None:
    """Write the price or the size of a level, or that there is no such level."""
    as_float64(raw(b.shown(book)), b.shown_columns(book)[column * SHOWN_WIDTH + VALUES])[symbol] = value
    _mark(book, column, symbol, is_present)


@called
def _mark(book: Any, column: int, symbol: int, is_present: bool) -> None:
    """Set whether a value is present."""
    columns = b.shown_columns(book)
    b.shown_present(book)[columns[column * SHOWN_WIDTH + PRESENT] + symbol] = is_present
    start = columns[column * SHOWN_WIDTH + BITS]
    if start < 0:
        return
    bits, bit = as_uint8(raw(b.shown(book)), start), np.uint8(1 << (symbol & 7))
    if is_present:
        bits[symbol >> 3] |= bit
    else:
        bits[symbol >> 3] &= np.uint8(255) ^ bit
