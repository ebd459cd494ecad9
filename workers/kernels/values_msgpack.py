"""Pass 2 for msgpack: spans to numbers, a column at a time; as `values_json`.

Each kernel fills `values` and `there`, and lists in `odd` the rows that it leaves to the library. It
answers how many those are, how many rows have no value, and how many zeros there are where `absent` asks
for that (`workers.kernels.sides`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels.compiling import inlined, kernel
from workers.kernels.sides import blank_prices, blank_sizes
from workers.kernels.words import MASKS, load64, raw, reversed_bytes

_MASK32 = np.uint64(0xFFFFFFFF)
_NIL = 0xC0
_LATEST_S = 9_000_000_000
"""Seconds since 1970 that nanoseconds can tell; beyond, the library says what is wrong."""


@inlined
def _big_endian(buffer: Any, i: int, size: int) -> Any:
    """The unsigned number in `size` (1 to 8) bytes at `i`."""
    return reversed_bytes(load64(buffer, i)) >> np.uint64(64 - 8 * size)


@inlined
def _whole(buffer: Any, i: int, length: int) -> tuple[int, Any]:
    """The whole number at `i`: 1 and its value as int64, 2 and its value as uint64; 0 if none."""
    first = buffer[i]
    if first < 0x80:
        return 1, np.uint64(first)
    if first >= 0xE0:
        return 1, np.uint64(np.int64(first) - 256)
    if first == 0xCF:
        return 2, _big_endian(buffer, i + 1, 8)
    if 0xCC <= first <= 0xCE:
        return 1, _big_endian(buffer, i + 1, length - 1)
    if 0xD0 <= first <= 0xD3:
        shift = np.int64(64 - 8 * (length - 1))
        word = np.int64(_big_endian(buffer, i + 1, length - 1) << np.uint64(shift))
        return 1, np.uint64(word >> shift)
    return 0, np.uint64(0)


@kernel
def floats(
    buffer: Any, spans: Any, values: Any, there: Any, odd: Any, absent: Any, option: bool
) -> tuple[int, int, int]:
    """Floats and whole numbers of every width to float64."""
    buffer = raw(buffer)
    strange = 0
    missing = 0
    for row in range(len(spans)):
        span = spans[row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        there[row] = True
        first = buffer[i]
        if length == 0 or first == _NIL:
            there[row] = False
            missing += 1
            values[row] = 0.0
        elif first == 0xCB:
            values[row] = np.uint64(_big_endian(buffer, i + 1, 8)).view(np.float64)
        elif first == 0xCA:
            values[row] = np.uint32(_big_endian(buffer, i + 1, 4)).view(np.float32)
        else:
            form, number = _whole(buffer, i, length)
            if form == 1:
                values[row] = np.float64(np.int64(number))
            elif form == 2:
                values[row] = np.float64(number)
            else:
                values[row] = 0.0
                odd[strange] = row
                strange += 1
    if not option:
        return strange, missing + blank_sizes(values, there, absent), 0
    zeros, more = blank_prices(values, there, absent)
    return strange, missing + more, zeros


@kernel
def integers(
    buffer: Any, spans: Any, values: Any, there: Any, odd: Any, absent: Any, option: bool
) -> tuple[int, int, int]:
    """Whole numbers of every width to int64 or uint64."""
    buffer = raw(buffer)
    strange = 0
    missing = 0
    for row in range(len(spans)):
        span = spans[row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        there[row] = True
        values[row] = 0
        if length == 0 or buffer[i] == _NIL:
            there[row] = False
            missing += 1
            continue
        form, number = _whole(buffer, i, length)
        if form == 2 and option:
            form = 1 if np.int64(number) >= 0 else 0
        elif form == 1 and not option and np.int64(number) < 0:
            form = 0
        if form == 0:
            odd[strange] = row
            strange += 1
        elif option:
            values[row] = np.int64(number)
        else:
            values[row] = number
    return strange, missing + blank_sizes(values, there, absent), 0


@kernel
def booleans(
    buffer: Any, spans: Any, values: Any, there: Any, odd: Any, absent: Any, option: bool
) -> tuple[int, int, int]:
    """True and false; missing ones are `option`."""
    buffer = raw(buffer)
    strange = 0
    missing = 0
    for row in range(len(spans)):
        span = spans[row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        there[row] = True
        values[row] = option
        if length == 0:
            continue
        if buffer[i] == 0xC3:
            values[row] = True
        elif buffer[i] == 0xC2:
            values[row] = False
        else:
            odd[strange] = row
            strange += 1
    return strange, missing, 0


@kernel
def times(
    buffer: Any, spans: Any, values: Any, there: Any, odd: Any, absent: Any, option: bool
) -> tuple[int, int, int]:
    """Timestamps in the 4-, 8- and 12-byte forms to nanoseconds."""
    buffer = raw(buffer)
    strange = 0
    missing = 0
    for row in range(len(spans)):
        span = spans[row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        there[row] = length != 0
        values[row] = 0
        if length == 0:
            missing += 1
            continue
        head = load64(buffer, i)
        seconds = np.int64(0)
        nanoseconds = np.int64(1) << 40
        if head & MASKS[2] == 0xFFD7:
            word = _big_endian(buffer, i + 2, 8)
            seconds = np.int64(word & np.uint64(0x3FFFFFFFF))
            nanoseconds = np.int64(word >> np.uint64(34))
        elif head & MASKS[2] == 0xFFD6:
            seconds = np.int64(_big_endian(buffer, i + 2, 4))
            nanoseconds = np.int64(0)
        elif head & MASKS[3] == 0xFF0CC7:
            nanoseconds = np.int64(_big_endian(buffer, i + 3, 4))
            seconds = np.int64(_big_endian(buffer, i + 7, 8))
        if nanoseconds < 1_000_000_000 and -_LATEST_S <= seconds <= _LATEST_S:
            values[row] = seconds * 1_000_000_000 + nanoseconds
        else:
            odd[strange] = row
            strange += 1
    return strange, missing, 0
