"""Order-book levels: the net change that a batch makes."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels.compiling import inlined, kernel

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@inlined
def _place_of(word: Any, mask: Any) -> int:
    word = np.uint64(word) * _MULTIPLIER
    return np.int64((word ^ word >> np.uint64(29)) & mask)


@kernel
def net(
    symbols: Any,
    sides: Any,
    prices: Any,
    places: Any,
    resets: Any,
    valid: Any,
    books: Any,
    levels: Any,
    firsts: Any,
    lasts: Any,
    left: Any,
    out: Any,
    book_of: Any,
) -> int:
    """Select the rows that still count after all of a batch into `out`, in order; return their number.

    For each symbol these are the rows since its last reset, and for each level the last row. A symbol that
    was reset to an empty book keeps the first row of the reset. A reset is one message: its rows are marked
    and have the same place. Rows without a level are not `valid`.

    `symbols`, `sides`, `prices` (as words), `places`, `resets`, `valid`: one entry per row. `books` and
    `levels` are int64 scratch arrays whose size is a power of two above twice the rows: hash tables from
    symbols, and from levels, to a row. The state of a symbol is kept at its first row: `firsts` has the
    first row of its last reset (negative: none), `lasts` its last row, `left` the number of its rows that
    still count. `book_of` has that place for each row in `out`.
    """
    mask = np.uint64(len(books) - 1)
    books[:] = -1
    levels[:] = -1
    rows = len(symbols)
    for row in range(rows):
        place = _place_of(symbols[row], mask)
        while books[place] >= 0 and symbols[books[place]] != symbols[row]:
            place = np.int64(np.uint64(place + 1) & mask)
        book = books[place]
        if book < 0:
            book = books[place] = row
            firsts[book] = row if resets[row] else -1
            left[book] = 0
        elif resets[row]:
            before = lasts[book]
            if places[before] != places[row]:
                firsts[book] = row
        lasts[book] = row
        out[row] = book
    # Backwards: the first row met of a level is its last one.
    for row in range(rows - 1, -1, -1):
        book = out[row]
        first = firsts[book]
        tells = row >= first and valid[row]
        if tells:
            word = prices[row] ^ np.uint64(symbols[row]) << np.uint64(1) ^ np.uint64(sides[row])
            place = _place_of(word, mask)
            while levels[place] >= 0 and not (
                symbols[levels[place]] == symbols[row]
                and sides[levels[place]] == sides[row]
                and prices[levels[place]] == prices[row]
            ):
                place = np.int64(np.uint64(place + 1) & mask)
            tells = levels[place] < 0
            if tells:
                levels[place] = row
                left[book] += 1
        if row == first and left[book] == 0:
            tells = True
        if not tells:
            out[row] = -1
    count = 0
    for row in range(rows):
        if out[row] >= 0:
            book_of[count] = out[row]
            out[count] = row
            count += 1
    return count
