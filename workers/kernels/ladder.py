"""Ladders: the levels of both sides of all order books.

A side has the number 2 · symbol, plus 1 for asks. Its levels are a piece of the arrays `prices` and
`sizes`, best first: prices ascend, as those of bids are negative. Each piece has room for more levels; one
that is too small moves to the end of what is used.

`sides` has `SIDE_WIDTH` words for each side, `edges` the best price that was dropped from it (infinite:
none was), and `complete` a byte for each symbol. `asks` says which codes of the column `side` stand for
asks.

The same helpers serve batches of workers, which are arrays (`update`), and usual batches, which are memory
of frames (`kernels.direct_books`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.streams.books import BOOK_DEPTH
from workers.kernels.compiling import called, inlined, kernel

START, COUNT, ROOM = 0, 1, 2
"""Where the piece of a side begins, how many levels it has, and how many it has room for."""
FRESH = 3
"""Scratch, 0 between calls: the rows of a batch that may add a level to the side."""
SIDE_WIDTH = 4

USED, DROPPED, MOST = 0, 1, 2
"""Places in `totals`: the items of the arrays that are used, the levels dropped so far, and the most levels
that a side may have.
"""

_LEAST_ROOM = 16


@inlined
def side_of(symbol: Any, code: Any, asks: Any) -> int:
    """Return the number of the side that a row is of."""
    return 2 * np.int64(symbol) + asks[code]


@called
def reserve(
    rows: int,
    symbols: Any,
    codes: Any,
    valid: Any,
    asks: Any,
    sides: Any,
    totals: Any,
    prices: Any,
    sizes: Any,
) -> int:
    """Make room for the levels of a batch; return how many items the arrays lack for it.

    If they lack any, the books are as they were. Rows that are not `valid` have no level.
    """
    for row in range(rows):
        if valid[row]:
            sides[side_of(symbols[row], codes[row], asks) * SIDE_WIDTH + FRESH] += 1
    lacking = 0
    for row in range(rows):
        if not valid[row]:
            continue
        side = side_of(symbols[row], codes[row], asks) * SIDE_WIDTH
        count, fresh = sides[side + COUNT], sides[side + FRESH]
        sides[side + FRESH] = 0
        if count + fresh <= sides[side + ROOM]:
            continue
        room = max(_LEAST_ROOM, 2 * (count + fresh))
        start, end = sides[side + START], totals[USED]
        if end + room > len(prices):
            lacking += room
            continue
        prices[end : end + count] = prices[start : start + count]
        sizes[end : end + count] = sizes[start : start + count]
        sides[side + START], sides[side + ROOM] = end, room
        totals[USED] = end + room
    return lacking


@inlined
def _find(price: Any, start: int, end: int, prices: Any) -> int:
    """Return the place of the first level that is not better than `price`."""
    while start < end:
        middle = (start + end) >> 1
        if prices[middle] < price:
            start = middle + 1
        else:
            end = middle
    return start


@called
def set_level(side: int, price: Any, size: Any, sides: Any, prices: Any, sizes: Any) -> None:
    """Set the size of a level; a size of 0 removes it. There is room for one more."""
    start = sides[side * SIDE_WIDTH + START]
    end = start + sides[side * SIDE_WIDTH + COUNT]
    at = _find(price, start, end, prices)
    if at < end and prices[at] == price:
        if size != 0.0:
            sizes[at] = size
            return
        prices[at : end - 1] = prices[at + 1 : end].copy()
        sizes[at : end - 1] = sizes[at + 1 : end].copy()
        sides[side * SIDE_WIDTH + COUNT] -= 1
    elif size != 0.0:
        if at < end:
            prices[at + 1 : end + 1] = prices[at:end].copy()
            sizes[at + 1 : end + 1] = sizes[at:end].copy()
        prices[at], sizes[at] = price, size
        sides[side * SIDE_WIDTH + COUNT] += 1


@called
def clear(symbol: int, sides: Any, edges: Any, complete: Any) -> None:
    """Empty the book of a symbol, which is complete from here on."""
    complete[symbol] = 1
    for side in range(2 * symbol, 2 * symbol + 2):
        sides[side * SIDE_WIDTH + COUNT] = 0
        edges[side] = np.inf


@called
def change(
    first: int,
    last: int,
    symbols: Any,
    codes: Any,
    row_prices: Any,
    row_sizes: Any,
    resets: Any,
    valid: Any,
    asks: Any,
    sides: Any,
    edges: Any,
    complete: Any,
    prices: Any,
    sizes: Any,
) -> None:
    """Apply the rows from `first` to before `last`, all of which follow the resets among them."""
    for row in range(first, last):
        if resets[row]:
            clear(np.int64(symbols[row]), sides, edges, complete)
    for row in range(first, last):
        if valid[row]:
            side = side_of(symbols[row], codes[row], asks)
            price = row_prices[row] if side & 1 else -row_prices[row]
            set_level(side, price, row_sizes[row], sides, prices, sizes)


@called
def bound(
    rows: int,
    symbols: Any,
    codes: Any,
    valid: Any,
    asks: Any,
    sides: Any,
    edges: Any,
    totals: Any,
    prices: Any,
) -> None:
    """Drop the worst levels of the sides that a batch has changed, if they have too many."""
    most = totals[MOST]
    for row in range(rows):
        if not valid[row]:
            continue
        side = side_of(symbols[row], codes[row], asks)
        beyond = sides[side * SIDE_WIDTH + COUNT] - most
        if beyond > 0:
            totals[DROPPED] += beyond
            edges[side] = min(edges[side], prices[sides[side * SIDE_WIDTH + START] + most])
            sides[side * SIDE_WIDTH + COUNT] = most


@called
def is_complete(symbol: int, sides: Any, edges: Any, complete: Any, prices: Any) -> bool:
    """Return whether the best levels of a book are surely those that its readers see."""
    if not complete[symbol]:
        return False
    for side in range(2 * symbol, 2 * symbol + 2):
        if edges[side] < np.inf:
            start, count = sides[side * SIDE_WIDTH + START], sides[side * SIDE_WIDTH + COUNT]
            if count < BOOK_DEPTH or prices[start + BOOK_DEPTH - 1] >= edges[side]:
                return False
    return True


@kernel
def update(
    symbols: Any,
    codes: Any,
    row_prices: Any,
    row_sizes: Any,
    resets: Any,
    valid: Any,
    asks: Any,
    sides: Any,
    edges: Any,
    complete: Any,
    totals: Any,
    prices: Any,
    sizes: Any,
) -> int:
    """Apply the net changes of a batch (`aggregation.books`); return 0.

    If the arrays have no room, nothing has changed; return how many items they lack.
    """
    rows = len(symbols)
    lacking = reserve(rows, symbols, codes, valid, asks, sides, totals, prices, sizes)
    if lacking == 0:
        change(
            0,
            rows,
            symbols,
            codes,
            row_prices,
            row_sizes,
            resets,
            valid,
            asks,
            sides,
            edges,
            complete,
            prices,
            sizes,
        )
        bound(rows, symbols, codes, valid, asks, sides, edges, totals, prices)
    return lacking


@kernel
def read_best(
    symbols: Any,
    sides: Any,
    edges: Any,
    complete: Any,
    prices: Any,
    sizes: Any,
    whole: Any,
    counts: Any,
    levels: Any,
) -> None:
    """Read what readers see of books: whether each is complete, its levels of each side, and the best ones.

    Results, each with an item for each of `symbols` in its last dimension: `whole`; `counts` by side;
    `levels` by side, level, and price or size.
    """
    for index in range(len(symbols)):
        symbol = symbols[index]
        whole[index] = is_complete(symbol, sides, edges, complete, prices)
        for asks in range(2):
            side = (2 * symbol + asks) * SIDE_WIDTH
            start, count = sides[side + START], sides[side + COUNT]
            counts[asks, index] = count
            for level in range(min(count, BOOK_DEPTH)):
                price = prices[start + level]
                levels[asks, level, 0, index] = price if asks else -price
                levels[asks, level, 1, index] = sizes[start + level]
