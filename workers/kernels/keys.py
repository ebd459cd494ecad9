"""JSON messages by their keys: finds all values of a message at once instead of one after another.

A key ends with the bytes `":`. A scan over 64 bytes at a time notes the places of these bytes ahead of the
match. In a known layout, each key fixes where the literal around it must be. It thereby fixes where the
value before it ends and where the next one begins. So no search waits for the one before it, and the
lengths of values do not matter.

    {"T":"t","S":"AAPL","p":187.25,"s":100}
         ^      ^           ^         ^        places of `":`, 64 bytes per step
    literal │value│literal│value│literal …     each literal is compared at a fixed distance from its key

The places are a guess. Every literal is compared, and pass 2 checks the values between them. Where the
guess is wrong, the message is followed step by step.

Places are kept in a window of int64: `NEXT`, the first unused one; `COUNT`, their number; `CURSOR` and
`LIMIT`, the bytes still to scan; `GAP`, the bytes between two messages; and the places themselves from
`FIRST` on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from workers.kernels import ops
from workers.kernels.compiling import called, inlined
from workers.kernels.fit import NO_FIT
from workers.kernels.tokens import COMMA, OPEN, QUOTE, is_bare, is_plain, list_end
from workers.kernels.words import count_bits, first_bit_or_64, load64, pairs64

NEXT = 0
COUNT = 1
CURSOR = 2
LIMIT = 3
GAP = 4
FIRST = 8
_ROOM = 1024
WIDTH = FIRST + _ROOM + 64
"""Size of a window. A block of 64 bytes has at most 64 places."""

# Columns of a shortcut's entry: one literal with a key in it, or the last literal.
KEY = 0
"""Index of the key in the message."""
BEFORE = 1
"""Bytes from the start of the literal to the end of its last key."""
AHEAD = 2
"""Bytes from that key to the value. For a quote or bracket, the literal's last byte is the value's first.
"""
SLOT = 3
"""Slot of the value that follows. If no column wants it, what it must be: a plain text or a bare value."""
WORD = 4
"""The literal's first eight bytes."""
MASK = 5
"""Mask of the bytes that belong to the literal, if it has fewer than eight."""
ENTRY_WIDTH = 6

# Columns of further comparisons, for literals of more than eight bytes: `KEY`, `BEFORE`, and
MORE_WORD = 2
MORE_MASK = 3
MORE_WIDTH = 4

TEXT = -1
BARE = -2
LIST = -3

MOST_KEYS = 100
"""Largest number of keys in a message with a shortcut."""
LONGEST_LITERAL = 64
"""How far from a guessed place bytes are compared. `words.SPARE` must be larger."""

_COLON = 0x3A


def open_window(window: npt.NDArray[np.int64], limit: int) -> None:
    """Start on the bytes of another batch, which end at `limit`."""
    window[NEXT] = window[COUNT] = window[CURSOR] = 0
    window[LIMIT] = limit


@inlined
def move_to(window: Any, i: int) -> None:
    """Drop the places before byte `i`."""
    if window[CURSOR] < i:
        window[NEXT] = window[COUNT] = 0
        window[CURSOR] = i
    at, count = window[NEXT], window[COUNT]
    while at < count and window[FIRST + at] < i:
        at += 1
    window[NEXT] = at


@called
def _fill(buffer: Any, window: Any) -> None:
    """Scan for places until the window is full or the bytes end."""
    at, count = window[NEXT], window[COUNT]
    for place in range(at, count):
        window[FIRST + place - at] = window[FIRST + place]
    count -= at
    cursor, limit = window[CURSOR], window[LIMIT]
    while cursor < limit and count <= _ROOM - 64:
        bits = pairs64(buffer, cursor, np.uint8(QUOTE), np.uint8(_COLON))
        if limit - cursor < 64:
            bits &= (np.uint64(1) << np.uint64(limit - cursor)) - np.uint64(1)
        found = count_bits(bits)
        # Storing eight at once, however many there are, costs less than a test after each.
        at = FIRST + count
        stop = at + found
        while True:
            for more in range(8):
                window[at + more] = cursor + first_bit_or_64(bits)
                bits &= bits - np.uint64(1)
            at += 8
            if at >= stop:
                break
        count += found
        cursor += 64
    window[NEXT] = 0
    window[COUNT] = count
    window[CURSOR] = cursor


@inlined
def _is_skipped(buffer: Any, begin: int, end: int, what: int) -> bool:
    """Return whether a value that no column wants is well formed."""
    if what == TEXT:
        return buffer[end - 1] == QUOTE and is_plain(buffer, begin, end - 1)
    if what == LIST:
        return buffer[begin] == OPEN and list_end(buffer, begin, end) == end
    return is_bare(buffer, begin, end)


@called
def _leads(
    buffer: Any,
    i: int,
    end: int,
    last: int,
    entries: Any,
    at: int,
    values: int,
    more: int,
    keys: int,
    lead: int,
    spans: Any,
    room: int,
    row: int,
    window: Any,
) -> int:
    """Return where the message at byte `i` ends if it has this layout, as far as compared; otherwise
    `NO_FIT`.

    Another message follows it, or `last` as the payload's last byte.
    """
    places = FIRST + window[NEXT]
    start = window[places + entries[at + KEY]] - entries[at + BEFORE]
    if start != i:
        return np.int64(NO_FIT)
    differing = (load64(buffer, start) ^ np.uint64(entries[at + WORD])) & np.uint64(entries[at + MASK])
    order = np.int64(0)  # negative as soon as a value would end before it begins
    for _ in range(values):
        begin = start + entries[at + AHEAD]
        slot = entries[at + SLOT]
        at += ENTRY_WIDTH
        start = window[places + entries[at + KEY]] - entries[at + BEFORE]
        differing |= (load64(buffer, start) ^ np.uint64(entries[at + WORD])) & np.uint64(entries[at + MASK])
        order |= start - begin - 1
        if slot >= 0:
            spans[slot * room + row] = np.uint64(begin) | np.uint64(start - begin) << np.uint64(32)
        elif order < 0 or not _is_skipped(buffer, begin, start, slot):
            return np.int64(NO_FIT)
    begin = start + entries[at + AHEAD]
    slot = entries[at + SLOT]
    at += ENTRY_WIDTH
    stop, behind = end - 1, last
    if window[NEXT] + keys < window[COUNT] and window[places + keys] < end:
        stop, behind = window[places + keys] - lead - window[GAP], COMMA
    start = stop - entries[at + BEFORE]
    if order < 0 or differing != 0 or start <= begin or buffer[stop] != behind:
        return np.int64(NO_FIT)
    differing = (load64(buffer, start) ^ np.uint64(entries[at + WORD])) & np.uint64(entries[at + MASK])
    if slot >= 0:
        spans[slot * room + row] = np.uint64(begin) | np.uint64(start - begin) << np.uint64(32)
    elif not _is_skipped(buffer, begin, start, slot):
        return np.int64(NO_FIT)
    at += ENTRY_WIDTH
    for _ in range(more):
        start = window[places + entries[at + KEY]] - entries[at + BEFORE]
        differing |= (load64(buffer, start) ^ np.uint64(entries[at + MORE_WORD])) & np.uint64(
            entries[at + MORE_MASK]
        )
        at += MORE_WIDTH
    if differing != 0:
        return np.int64(NO_FIT)
    while entries[at] >= 0:  # the other columns, each as size << 32 | place relative to `i`, or 0
        span = entries[at + 1]
        spans[entries[at] * room + row] = np.uint64(span + i if span else 0)
        at += 2
    return np.int64(stop)


@inlined
def hurry(
    buffer: Any,
    i: int,
    end: int,
    closing: int,
    entries: Any,
    layouts: Any,
    known: int,
    spans: Any,
    room: int,
    rows: Any,
    last: int,
    window: Any,
) -> tuple[int, int]:
    """Return where the message at byte `i` ends, and its layout; a negative end if no shortcut fits.

    `closing` is the byte that ends a payload after its last message; 0 if that is unknown.
    """
    if window[COUNT] - window[NEXT] <= MOST_KEYS and window[CURSOR] < window[LIMIT]:
        _fill(buffer, window)
    word = load64(buffer, i)
    ready = window[COUNT] - window[NEXT]
    for turn in range(known):
        layout = last + turn
        if layout >= known:
            layout -= known
        at = layout * ops.LAYOUT_WIDTH
        first = layouts[at + ops.ENTRIES]
        if first < 0 or (word ^ np.uint64(entries[first + WORD])) & np.uint64(entries[first + MASK]):
            continue
        row = rows[layouts[at + ops.CHANNEL]]
        keys = layouts[at + ops.KEYS]
        if row >= room or ready < keys:
            break
        stop = _leads(
            buffer,
            i,
            end,
            closing,
            entries,
            first,
            layouts[at + ops.BETWEEN],
            layouts[at + ops.MORE],
            keys,
            layouts[at + ops.LEAD],
            spans,
            room,
            row,
            window,
        )
        if stop >= 0:
            window[NEXT] += keys
            return stop, layout
    return np.int64(NO_FIT), last
