"""Levels of order books: what a batch changes in them, in the end."""

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
    times: Any,
    resets: Any,
    there: Any,
    books: Any,
    levels: Any,
    firsts: Any,
    lasts: Any,
    left: Any,
    out: Any,
    book_of: Any,
) -> int:
    """The rows that still tell of a book after all of a batch, in `out`, in order; how many there are.

    Of each symbol these are the rows since its last reset, and of each level the last one; of a symbol that
    was reset and has none, the first row of the reset. A reset is as many rows of a symbol, one after
    another, as are marked and have the same time. Rows without a level are not `there`.

    `symbols`, `sides`, `prices` (as words), `times`, `resets`, `there`: a row each. `books` and `levels`,
    int64 of a power of two and more than twice the rows, are scratch: tables from symbols, and from levels,
    to a row. What is known of a symbol stands where it first came: in `firsts` the first row of its last
    reset (negative: there was none), in `lasts` its last row, in `left` how many of its rows still tell.
    `book_of` has that place for each row in `out`.
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
            if not resets[before] or times[before] != times[row]:
                firsts[book] = row
        lasts[book] = row
        out[row] = book
    # Backwards: the first row met of a level is its last one.
    for row in range(rows - 1, -1, -1):
        book = out[row]
        first = firsts[book]
        tells = row >= first and there[row]
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
