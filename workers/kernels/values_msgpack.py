"""Pass 2 for msgpack: spans to numbers, one column at a time, as in `values_json`.

Each function fills `values` and `valid`. It lists the rows that it leaves to the fallback decoder in
`leftover`, from `at` on: every value whose form it does not know to the last byte. It
returns their number, and the number of rows without a value.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.limits import LARGEST_NUMBER
from workers.kernels.columns import PLAN_WIDTH, make_convert
from workers.kernels.compiling import called, inlined, kernel
from workers.kernels.words import MASKS, load64, raw, reversed_bytes

_MASK32 = np.uint64(0xFFFFFFFF)
_NIL = 0xC0
_LARGEST = np.float64(LARGEST_NUMBER).view(np.uint64)
"""The bits of the largest number; those of larger ones, of infinity and of NaN are larger."""
_WITHOUT_SIGN = np.uint64((1 << 63) - 1)
_INFINITE32 = np.uint64(0xFF << 23)
"""The exponent of float32 numbers that are infinite or not numbers."""
_LATEST_S = 9_000_000_000
"""Largest seconds since 1970 that fit into nanoseconds; beyond, the fallback decoder gives the reason."""


@inlined
def _big_endian(buffer: Any, i: int, size: int) -> Any:
    """Return the unsigned number in `size` (1 to 8) bytes at `i`."""
    return reversed_bytes(load64(buffer, i)) >> np.uint64(64 - 8 * size)


@inlined
def _whole(buffer: Any, i: int, length: int) -> tuple[int, Any]:
    """Return the whole number at `i`: 1 and its value as int64, 2 and its value as uint64; 0 if it is not
    one.
    """
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


@called
def floats(
    buffer: Any, spans: Any, offset: int, rows: int, values: Any, valid: Any, leftover: Any, at: int
) -> tuple[int, int]:
    """Convert floats and whole numbers of every width to float64."""
    left = 0
    missing = 0
    for row in range(rows):
        span = spans[offset + row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        valid[row] = 1
        first = buffer[i]
        if length == 0 or first == _NIL:
            valid[row] = 0
            missing += 1
            values[row] = 0.0
        elif first == 0xCB and _big_endian(buffer, i + 1, 8) & _WITHOUT_SIGN <= _LARGEST:
            values[row] = np.uint64(_big_endian(buffer, i + 1, 8)).view(np.float64)
        elif first == 0xCA and _big_endian(buffer, i + 1, 4) & _INFINITE32 != _INFINITE32:
            values[row] = np.uint32(_big_endian(buffer, i + 1, 4)).view(np.float32)
        else:
            form, number = _whole(buffer, i, length)
            if form == 1:
                values[row] = np.float64(np.int64(number))
            elif form == 2:
                values[row] = np.float64(number)
            else:
                values[row] = 0.0
                leftover[at + left] = row
                left += 1
    return left, missing


@called
def integers(
    buffer: Any,
    spans: Any,
    offset: int,
    rows: int,
    values: Any,
    valid: Any,
    leftover: Any,
    at: int,
    signed: Any,
) -> tuple[int, int]:
    """Convert whole numbers of every width to int64 or uint64."""
    left = 0
    missing = 0
    for row in range(rows):
        span = spans[offset + row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        valid[row] = 1
        values[row] = 0
        if length == 0 or buffer[i] == _NIL:
            valid[row] = 0
            missing += 1
            continue
        form, number = _whole(buffer, i, length)
        if form == 2 and signed:
            form = 1 if np.int64(number) >= 0 else 0
        elif form == 1 and not signed and np.int64(number) < 0:
            form = 0
        if form == 0:
            leftover[at + left] = row
            left += 1
        elif signed:
            values[row] = np.int64(number)
        else:
            values[row] = number
    return left, missing


@called
def booleans(
    buffer: Any,
    spans: Any,
    offset: int,
    rows: int,
    values: Any,
    valid: Any,
    leftover: Any,
    at: int,
    default: Any,
) -> tuple[int, int]:
    """Convert true and false. Missing values are `default`."""
    left = 0
    missing = 0
    for row in range(rows):
        span = spans[offset + row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        valid[row] = 1
        values[row] = default
        if length == 0:
            continue
        if buffer[i] == 0xC3:
            values[row] = True
        elif buffer[i] == 0xC2:
            values[row] = False
        else:
            leftover[at + left] = row
            left += 1
    return left, missing


@called
def times(
    buffer: Any, spans: Any, offset: int, rows: int, values: Any, valid: Any, leftover: Any, at: int
) -> tuple[int, int]:
    """Convert timestamps in the 4-, 8- and 12-byte forms to nanoseconds."""
    left = 0
    missing = 0
    for row in range(rows):
        span = spans[offset + row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        valid[row] = length != 0
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
            leftover[at + left] = row
            left += 1
    return left, missing


convert_raw = make_convert(floats, integers, booleans, times)


@kernel
def convert(
    buffer: Any,
    spans: Any,
    room: int,
    rows: int,
    payload: Any,
    received: Any,
    plan: Any,
    area: Any,
    start: int,
    targets: Any,
    scratch: Any,
    keys: Any,
    slots: Any,
    starts: Any,
    sizes: Any,
    owners: Any,
    pool: Any,
    codes: Any,
    blanks: Any,
    leftover: Any,
    numbers: Any,
    counts: Any,
) -> None:
    """Convert all columns of one channel; see `workers.kernels.columns`."""
    convert_raw(
        raw(buffer),
        raw(spans),
        room,
        rows,
        raw(payload),
        raw(received),
        raw(plan),
        len(plan) // PLAN_WIDTH,
        raw(area),
        start,
        raw(targets),
        raw(scratch),
        raw(keys),
        raw(slots),
        len(slots) - 1,
        raw(starts),
        raw(sizes),
        raw(owners),
        raw(pool),
        raw(codes),
        raw(blanks),
        raw(leftover),
        raw(numbers),
        raw(counts),
    )
