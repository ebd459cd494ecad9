"""Texts to codes: a hash table from raw bytes, as they stand in a payload, to a number of its own.

Raw bytes that were met before need not be looked at again: which text they spell, and whether they
are well formed, was found out by the library when they came first. Texts of up to seven bytes are
compared as one word, longer ones with a copy in the table's pool.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels.compiling import inlined, kernel
from workers.kernels.words import MASKS, load64, raw

_MASK32 = np.uint64(0xFFFFFFFF)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

NO_CODE = -1
"""In `codes`: the text has no code yet."""
NULL = -2
"""In `codes`: the bytes spell that there is no text."""
UNFIT = -3
"""In `codes`: the bytes are no text that the column takes."""

LONGEST = 512
"""Raw bytes of a text that a table takes."""


@inlined
def _key_of(buffer: Any, i: int, length: int) -> Any:
    """A text of 1 to 7 bytes and its length in one word."""
    return load64(buffer, i) & MASKS[length] | np.uint64(length) << np.uint64(56)


@inlined
def _hash_of(word: Any) -> Any:
    word *= _MULTIPLIER
    return word ^ word >> np.uint64(32)


@inlined
def _hash_long(buffer: Any, i: int, length: int) -> Any:
    """A hash of `length` bytes, 8 or more."""
    value = np.uint64(0)
    while length > 8:
        value = _hash_of(value ^ load64(buffer, i))
        i += 8
        length -= 8
    return _hash_of(value ^ (load64(buffer, i) & MASKS[length]))


@inlined
def _same(buffer: Any, i: int, pool: Any, j: int, length: int) -> bool:
    while length > 8:
        if load64(buffer, i) != load64(pool, j):
            return False
        i += 8
        j += 8
        length -= 8
    return (load64(buffer, i) ^ load64(pool, j)) & MASKS[length] == 0


@inlined
def _find(
    buffer: Any, i: int, length: int, slots: Any, mask: int, starts: Any, sizes: Any, pool: Any
) -> int:
    """The slot of a text, or of the gap where it would go."""
    hashed = _hash_of(_key_of(buffer, i, length)) if length <= 7 else _hash_long(buffer, i, length)
    place = np.int64(hashed & np.uint64(mask))
    while True:
        number = slots[place]
        if number < 0:
            return place
        if sizes[number] == length and _same(buffer, i, pool, starts[number], length):
            return place
        place = (place + 1) & mask


@kernel
def look_up(
    buffer: Any,
    spans: Any,
    keys: Any,
    slots: Any,
    starts: Any,
    sizes: Any,
    pool: Any,
    codes: Any,
    blanks: Any,
    absent: Any,
    values: Any,
    there: Any,
    odd: Any,
    numbers: Any,
) -> tuple[int, int, int]:
    """Codes of a column: how many rows have bytes never met (in `odd`), how many a text without a
    code (in `odd` too, from the end backwards, with their numbers in `numbers`), how many no text.

    Where `absent` (by row; empty for none) says so, blank texts are no texts.
    """
    strange = 0
    fresh = 0
    missing = 0
    size = len(spans)
    mask = len(slots) - 1
    sided = len(absent) > 0
    buffer, slots, starts, sizes, pool = raw(buffer), raw(slots), raw(starts), raw(sizes), raw(pool)
    codes, keys = raw(codes), raw(keys)
    for row in range(size):
        span = spans[row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        values[row] = 0
        if length == 0:
            there[row] = False
            missing += 1
            continue
        if length <= 7:
            key = _key_of(buffer, i, length)
            place = np.int64(_hash_of(key) & np.uint64(mask))
            while keys[place] != key and slots[place] >= 0:
                place = (place + 1) & mask
            number = slots[place]
        elif length <= LONGEST:
            number = slots[_find(buffer, i, length, slots, mask, starts, sizes, pool)]
        else:
            number = -1
        there[row] = True
        if number < 0:
            odd[strange] = row
            strange += 1
            continue
        code = codes[number]
        if code >= 0 and not (sided and absent[row] and blanks[number]):
            values[row] = code
        elif code == NULL or (sided and absent[row] and blanks[number]):
            there[row] = False
            missing += 1
        else:
            numbers[size - 1 - fresh] = number
            odd[size - 1 - fresh] = row
            fresh += 1
    return strange, fresh, missing


@kernel
def insert(
    first: int, count: int, keys: Any, slots: Any, starts: Any, sizes: Any, pool: Any
) -> None:
    """Give their places to the texts of the pool from the number `first` on, `count` in all."""
    mask = len(slots) - 1
    keys, slots, starts, sizes, pool = raw(keys), raw(slots), raw(starts), raw(sizes), raw(pool)
    for number in range(first, count):
        length = sizes[number]
        place = _find(pool, starts[number], length, slots, mask, starts, sizes, pool)
        slots[place] = number
        keys[place] = _key_of(pool, starts[number], length) if length <= 7 else np.uint64(0)
