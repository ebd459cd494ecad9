"""Pass 2 for JSON: spans to numbers, one column at a time.

Each function fills `values` and `valid`. It lists the rows that it leaves to the fallback decoder in
`leftover`, from `at` on: every value whose form it does not know to the last byte. It returns their
number, and the number of rows without a value.

The file is long: each kind of value has a loop of its own, for a call per value would cost too much.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels.columns import PLAN_WIDTH, make_convert
from workers.kernels.compiling import called, inlined, kernel
from workers.kernels.words import HIGH, LOW, MASKS, eight_of, find, first_bit, load64, raw

_NULL = 0x6C6C756E
_MASK32 = np.uint64(0xFFFFFFFF)
_TENS = np.array([10.0**n for n in range(23)])
_MOST_SIGNED = np.uint64(2**63 - 1)
_WHOLE_TENS = np.array([10**n for n in range(19)], np.uint64)
_EXACT = np.uint64(1 << 53)
_POINTS = eight_of(0x2E)
_ZEROS = eight_of(0x30)
_TO_TEN = eight_of(0x76)
"""Added to a byte of 10 or more, it sets the highest bit."""
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_LONGEST = 64
"""Longest number that is converted here, in bytes."""
_LAST = np.uint64(0x8000000000000000)


@inlined
def number_of(digits: Any) -> Any:
    """Return the number of eight digits, 0 to 9 each, the first in the lowest byte."""
    digits = digits * np.uint64(2561) >> np.uint64(8) & np.uint64(0x00FF00FF00FF00FF)
    digits = digits * np.uint64(6553601) >> np.uint64(16) & np.uint64(0x0000FFFF0000FFFF)
    return digits * np.uint64(42949672960001) >> np.uint64(32)


@inlined
def are_digits(digits: Any) -> bool:
    """Return whether all eight bytes are 0 to 9."""
    return ((digits + _TO_TEN) | digits) & HIGH == 0


@inlined
def few_digits(buffer: Any, start: int, count: int) -> tuple[bool, Any]:
    """Return the number that `count` (1 to 8) bytes spell, and whether all are digits."""
    shift = np.uint64(64 - 8 * count)
    digits = (load64(buffer, start) ^ _ZEROS) << shift
    return are_digits(digits), number_of(digits)


@inlined
def _begins_well(buffer: Any, i: int, length: int) -> bool:
    """Return whether an unsigned number has no zero before other digits."""
    return buffer[i] != 0x30 or length == 1 or buffer[i + 1] == 0x2E


@inlined
def _decimal8(buffer: Any, i: int, length: int) -> tuple[bool, Any, int]:
    """Return a decimal of 1 to 8 bytes as a whole number, its decimal places, and whether it is a decimal.

    The point is removed, the digits move together, and zeros fill up before them.
    """
    shift = np.uint64(64 - 8 * length)
    first = load64(buffer, i)
    word = first << shift
    dots = word ^ _POINTS
    hit = (dots - LOW) & ~dots & HIGH
    # Zeros before: as many bytes as were shifted in, and one more in place of the point.
    spare = ~(_ALL << shift)
    scale = np.int64(0)
    good = True
    if hit:
        below = (hit >> np.uint64(7)) - np.uint64(1)  # the bytes before the point
        good = below > spare and hit != _LAST
        scale = 7 - np.int64(first_bit(hit) >> 3)
        word = (word & below) << np.uint64(8) | (word & ~((hit << np.uint64(1)) - np.uint64(1)))
        spare = spare << np.uint64(8) | np.uint64(0xFF)
    digits = word ^ _ZEROS & ~spare
    two = first & np.uint64(0xFFFF)
    leading = (two & np.uint64(0xFF)) == 0x30 and (two >> np.uint64(8)) - np.uint64(0x30) <= 9
    good = good and are_digits(digits) and not (leading and length > 1)
    return good, number_of(digits), scale


@inlined
def _decimal17(buffer: Any, i: int, end: int) -> tuple[bool, Any, int]:
    """Like `_decimal8`, for up to 8 digits on each side of a point."""
    point = find(buffer, i, end, _POINTS)
    whole = point - i
    scale = end - point - 1
    if not (1 <= whole <= 8 and 1 <= scale <= 8):
        return False, np.uint64(0), np.int64(0)
    good, high = few_digits(buffer, i, whole)
    fits, low = few_digits(buffer, point + 1, scale)
    number = high * _WHOLE_TENS[scale] + low
    good = good and fits and number < _EXACT and _begins_well(buffer, i, whole)
    return good, number, scale


@called
def floats(
    buffer: Any, spans: Any, offset: int, rows: int, values: Any, valid: Any, leftover: Any, at: int
) -> tuple[int, int]:
    """Convert numbers to float64, correctly rounded: digits below 2^53, scaled by one power of ten."""
    left = 0
    missing = 0
    for row in range(rows):
        span = spans[offset + row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        end = i + length
        valid[row] = 1
        if length == 0:
            valid[row] = 0
            missing += 1
            values[row] = 0.0
            continue
        if length <= 8:
            usual, number, scale = _decimal8(buffer, i, length)
        elif length <= _LONGEST:
            usual, number, scale = _decimal17(buffer, i, end)
        else:
            values[row] = 0.0
            leftover[at + left] = row
            left += 1
            continue
        if usual:
            values[row] = np.float64(number) / _TENS[scale]
            continue
        if length == 4 and load64(buffer, i) & MASKS[4] == _NULL:
            valid[row] = 0
            missing += 1
            values[row] = 0.0
            continue
        negative = buffer[i] == 0x2D
        if negative:
            i += 1
        number = np.uint64(0)
        start = i
        point = -1
        while i < end:
            digit = buffer[i] - np.uint8(0x30)
            if digit > 9:
                if buffer[i] != 0x2E or point >= 0:
                    break
                point = i
            else:
                number = number * np.uint64(10) + np.uint64(digit)
            i += 1
        whole = (i if point < 0 else point) - start
        scale = 0 if point < 0 else i - point - 1
        good = (
            whole > 0
            and i - start <= 19
            and number < _EXACT
            and (whole == 1 or buffer[start] != 0x30)
            and (point < 0 or scale > 0)
            and not (negative and number == 0)
        )
        power = -scale
        if good and i < end and (buffer[i] | 0x20) == 0x65:
            i += 1
            minus = False
            if i < end and (buffer[i] == 0x2D or buffer[i] == 0x2B):
                minus = buffer[i] == 0x2D
                i += 1
            exponent = 0
            begin = i
            while i < end and i - begin < 4 and buffer[i] - np.uint8(0x30) <= 9:
                exponent = exponent * 10 + np.int64(buffer[i] - np.uint8(0x30))
                i += 1
            good = i > begin
            power += -exponent if minus else exponent
        if good and i == end and -22 <= power <= 22:
            value = np.float64(number)
            if power < 0:
                value /= _TENS[-power]
            else:
                value *= _TENS[power]
            values[row] = -value if negative else value
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
    """Convert whole numbers of up to 19 digits to int64 or uint64."""
    left = 0
    missing = 0
    for row in range(rows):
        span = spans[offset + row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        valid[row] = 1
        if 0 < length <= 8 and (buffer[i] != 0x30 or length == 1):
            usual, number = few_digits(buffer, i, length)
            if usual:
                values[row] = number
                continue
        values[row] = 0
        if length == 0 or (length == 4 and load64(buffer, i) & MASKS[4] == _NULL):
            valid[row] = 0
            missing += 1
            continue
        negative = buffer[i] == 0x2D
        if negative:
            i += 1
            length -= 1
        good = 0 < length <= 19 and (length == 1 or buffer[i] != 0x30) and not (negative and not signed)
        number = np.uint64(0)
        while good and length > 8:
            digits = load64(buffer, i) ^ _ZEROS
            good = are_digits(digits)
            number = number * np.uint64(100000000) + number_of(digits)
            i += 8
            length -= 8
        if good:
            good, rest = few_digits(buffer, i, length)
            number = number * _WHOLE_TENS[length] + rest
            good = good and not (signed and number > _MOST_SIGNED)
        if good:
            values[row] = -np.int64(number) if negative else np.int64(number)
        else:
            leftover[at + left] = row
            left += 1
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
    """Convert true and false. Missing values are `default`; null is false."""
    left = 0
    missing = 0
    for row in range(rows):
        span = spans[offset + row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        valid[row] = 1
        values[row] = default
        if length == 4 and load64(buffer, i) & MASKS[4] == 0x65757274:
            values[row] = True
        elif length == 5 and load64(buffer, i) & MASKS[5] == 0x65736C6166:
            values[row] = False
        elif length != 0:
            leftover[at + left] = row
            left += 1
    return left, missing


_MINUTE_NS = 60_000_000_000
_MONTH_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)


@inlined
def _two(buffer: Any, i: int) -> int:
    """Return two digits as a number; negative if they are not digits."""
    high = buffer[i] - np.uint8(0x30)
    low = buffer[i + 1] - np.uint8(0x30)
    if high > 9 or low > 9:
        return -1
    return np.int64(high) * 10 + np.int64(low)


@inlined
def days_since_1970(year: int, month: int, day: int) -> int:
    """Return days since 1970 in the proleptic Gregorian calendar (years start in March, so leap days come
    last).
    """
    if month <= 2:
        year -= 1
        month += 12
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719469


@inlined
def _minute(buffer: Any, i: int) -> int:
    """Return `2024-03-12T10:38:` as minutes since 1970; negative if it is not such a time."""
    century = _two(buffer, i)
    year = _two(buffer, i + 2)
    month = _two(buffer, i + 5)
    day = _two(buffer, i + 8)
    hour = _two(buffer, i + 11)
    minute = _two(buffer, i + 14)
    if (
        century < 0
        or year < 0
        or month < 1
        or month > 12
        or day < 1
        or hour < 0
        or hour > 23
        or minute < 0
        or minute > 59
        or buffer[i + 4] != 0x2D
        or buffer[i + 7] != 0x2D
        or buffer[i + 10] != 0x54
        or buffer[i + 13] != 0x3A
        or buffer[i + 16] != 0x3A
    ):
        return -1
    year += century * 100
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if year < 1970 or year > 2200 or day > _MONTH_DAYS[month - 1] + (month == 2 and leap):
        return -1
    return (days_since_1970(year, month, day) * 24 + hour) * 60 + minute


@inlined
def _offset(buffer: Any, i: int) -> tuple[bool, int]:
    """Return `+01:00` as minutes ahead of UTC, and whether it is such an offset."""
    hours = _two(buffer, i + 1)
    minutes = _two(buffer, i + 4)
    good = 0 <= hours <= 23 and 0 <= minutes <= 59 and buffer[i + 3] == 0x3A
    if buffer[i] == 0x2D:
        return good, -(hours * 60 + minutes)
    return good and buffer[i] == 0x2B, hours * 60 + minutes


@called
def times(
    buffer: Any, spans: Any, offset: int, rows: int, values: Any, valid: Any, leftover: Any, at: int
) -> tuple[int, int]:
    """Convert RFC 3339 texts from 1970 on to nanoseconds; the last minute is remembered."""
    left = 0
    missing = 0
    first = np.uint64(0)
    second = np.uint64(0)
    tenth = np.uint8(0)
    base = np.int64(0)
    for row in range(rows):
        span = spans[offset + row]
        length = np.int64(span >> np.uint64(32))
        i = np.int64(span & _MASK32)
        valid[row] = length != 0
        values[row] = 0
        if length == 0:
            missing += 1
            continue
        size = length - 3  # without quotes and Z
        ahead = np.int64(0)
        good = length >= 22 and buffer[i] == 0x22 and buffer[i + length - 1] == 0x22
        if good and buffer[i + length - 2] != 0x5A:
            size -= 5
            good, ahead = _offset(buffer, i + length - 7)
        good = good and 19 <= size <= 29 and size != 20
        if good:
            # "2024-03 | -12T10:3 | 8:
            if (
                load64(buffer, i) != first
                or load64(buffer, i + 8) != second
                or buffer[i + 16] != tenth
                or buffer[i + 17] != 0x3A
            ):
                minute = _minute(buffer, i + 1)
                if minute >= 0:
                    base = minute * _MINUTE_NS
                    first = load64(buffer, i)
                    second = load64(buffer, i + 8)
                    tenth = buffer[i + 16]
                else:
                    good = False
        if good:
            seconds = _two(buffer, i + 18)
            good = 0 <= seconds <= 59
            nanoseconds = np.int64(0)
            places = size - 20
            if places > 0:
                # Eight digits, filled up with zeros, and the ninth.
                kept = MASKS[8 if places == 9 else places]
                digits = (load64(buffer, i + 21) ^ _ZEROS) & kept
                ninth = np.int64(buffer[i + 29]) - 0x30 if places == 9 else np.int64(0)
                good = good and buffer[i + 20] == 0x2E and are_digits(digits) and 0 <= ninth <= 9
                nanoseconds = np.int64(number_of(digits)) * 10 + ninth
            values[row] = base - ahead * _MINUTE_NS + seconds * 1_000_000_000 + nanoseconds
        if not good:
            values[row] = 0
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
