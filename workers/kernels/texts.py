"""Texts to codes: a hash table from raw bytes, as they are in a payload, to a number.

The meaning of bytes depends on their owner (an exchange's column or a symbol's), so each text has an owner.

Bytes that were met before need no second look. The fallback decoder found out which text they spell, and
whether they are well formed, when they came first. Texts of up to seven bytes are compared as one word,
longer ones with a copy in the table's pool.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels.compiling import called, inlined, kernel
from workers.kernels.words import MASKS, load64, raw

_MASK32 = np.uint64(0xFFFFFFFF)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

NO_CODE = -1
"""In `codes`: the text has no code yet."""
NULL = -2
"""In `codes`: the bytes mean that there is no text."""
UNFIT = -3
"""In `codes`: the column does not accept these bytes."""

LONGEST = 512
"""Longest text that a table takes, in raw bytes."""


@inlined
def _key_of(buffer: Any, i: int, length: int, owner: int) -> Any:
    """Return a text of 1 to 7 bytes, its length and its owner as one word. `owner` is below 32."""
    return load64(buffer, i) & MASKS[length] | np.uint64(owner << 3 | length) << np.uint64(56)


@inlined
def _hash_of(word: Any) -> Any:
    word *= _MULTIPLIER
    return word ^ word >> np.uint64(32)


@inlined
def _hash_long(buffer: Any, i: int, length: int, owner: int) -> Any:
    """Return a hash of `length` bytes (8 or more) and their owner."""
    value = np.uint64(owner)
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
    buffer: Any,
    i: int,
    length: int,
    owner: int,
    slots: Any,
    mask: int,
    starts: Any,
    sizes: Any,
    owners: Any,
    pool: Any,
) -> int:
    """Return the slot of a text, or of the gap where it would go."""
    if length <= 7:
        hashed = _hash_of(_key_of(buffer, i, length, owner))
    else:
        hashed = _hash_long(buffer, i, length, owner)
    place = np.int64(hashed & np.uint64(mask))
    while True:
        number = slots[place]
        if number < 0:
            return place
        if (
            sizes[number] == length
            and owners[number] == owner
            and _same(buffer, i, pool, starts[number], length)
        ):
            return place
        place = (place + 1) & mask


@called
def look_up(
    buffer: Any,
    spans: Any,
    first: int,
    rows: int,
    owner: int,
    keys: Any,
    slots: Any,
    mask: int,
    starts: Any,
    sizes: Any,
    owners: Any,
    pool: Any,
    codes: Any,
    blanks: Any,
    absent: Any,
    side: int,
    values: Any,
    valid: Any,
    leftover: Any,
    numbers: Any,
    at: int,
) -> tuple[int, int, int]:
    """Look up the codes of a column. Return how many rows

    - have unknown bytes: these rows are in `leftover`, from `at` on;
    - have a text without a code: in `leftover`, backwards from `at` + `rows`, their numbers in `numbers`;
    - have no text.

    Blank texts are null where `absent` marks the side, from `side` on; a negative `side` means never.
    """
    left = 0
    fresh = 0
    missing = 0
    last = at + rows - 1
    for row in range(rows):
        span = spans[first + row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        values[row] = 0
        if length == 0:
            valid[row] = 0
            missing += 1
            continue
        if length <= 7:
            key = _key_of(buffer, i, length, owner)
            place = np.int64(_hash_of(key) & np.uint64(mask))
            while keys[place] != key and slots[place] >= 0:
                place = (place + 1) & mask
            number = np.int64(slots[place])
        elif length <= LONGEST:
            number = np.int64(
                slots[_find(buffer, i, length, owner, slots, mask, starts, sizes, owners, pool)]
            )
        else:
            number = np.int64(-1)
        valid[row] = 1
        if number < 0:
            leftover[at + left] = row
            left += 1
            continue
        code = codes[number]
        blank = side >= 0 and absent[side + row] and blanks[number]
        if code >= 0 and not blank:
            values[row] = code
        elif code == NULL or blank:
            valid[row] = 0
            missing += 1
        else:
            numbers[last - fresh] = number
            leftover[last - fresh] = row
            fresh += 1
    return left, fresh, missing


@kernel
def insert(
    first: int, count: int, keys: Any, slots: Any, starts: Any, sizes: Any, owners: Any, pool: Any
) -> None:
    """Insert the texts of the pool from number `first` on, `count` in all."""
    mask = len(slots) - 1
    keys, slots, starts, sizes, pool = raw(keys), raw(slots), raw(starts), raw(sizes), raw(pool)
    owners = raw(owners)
    for number in range(first, count):
        start, length, owner = starts[number], sizes[number], owners[number]
        place = _find(pool, start, length, owner, slots, mask, starts, sizes, owners, pool)
        slots[place] = number
        keys[place] = _key_of(pool, start, length, owner) if length <= 7 else np.uint64(0)
