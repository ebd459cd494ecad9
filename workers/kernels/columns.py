"""Pass 2: all columns of a channel at once, from spans to values.

A plan describes each column in `PLAN_WIDTH` numbers. `targets` has two numbers for each: the byte of `area`
where its values begin, and the one where its mask begins; `IN_SCRATCH` if they go to `scratch`. `counts`
reports what a column leaves over, in `COUNTS_WIDTH` numbers per column. `leftover` and `numbers` have
`rows` entries per column: rows for the fallback decoder from the front, texts without a code from the back.
"""

from __future__ import annotations

from typing import Any

from workers.kernels.compiling import called
from workers.kernels.sides import blank_prices, blank_sizes
from workers.kernels.texts import look_up
from workers.kernels.words import as_float64, as_int64, as_uint8, as_uint16, as_uint32, as_uint64

# Numbers of a column's plan.
KIND = 0
SLOT = 1
"""Row of the column's spans."""
OPTION = 2
"""FLOAT: whether it is the price of a quote side. BOOL: the default of missing values. Codes: the owner of
the texts.
"""
SIDE = 3
"""The price column that decides whether this side of a quote is present; negative if there is none."""
PLAN_WIDTH = 4

TARGETS_WIDTH = 2
IN_SCRATCH = -1
"""A target: the values or the mask go to `scratch`."""
SCRATCH_ARRAYS = 3
"""Arrays in `scratch`, each of `rows` bytes per column: absent quote sides, masks, booleans."""

# Kinds.
FLOAT = 0
INT = 1
UINT = 2
BOOL = 3
TIME = 4
CODE16 = 5
CODE32 = 6
RECEIVED = 7
"""The time at which the row's payload was received."""
GIVEN = 8
"""The values are already in place."""

# What is reported of each column.
LEFTOVER = 0
NEW_TEXTS = 1
MISSING = 2
ZEROS = 3
COUNTS_WIDTH = 4


def make_convert(floats: Any, integers: Any, booleans: Any, times: Any) -> Any:
    """Return pass 2 for one codec; the arguments are the functions that read its values."""

    @called
    def convert(
        buffer: Any,
        spans: Any,
        room: int,
        rows: int,
        payload: Any,
        received: Any,
        plan: Any,
        columns: int,
        area: Any,
        start: int,
        targets: Any,
        scratch: Any,
        keys: Any,
        slots: Any,
        mask: int,
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
        """Convert all columns. `targets` count from byte `start` of `area`.

        `scratch` (uint8) holds `SCRATCH_ARRAYS` arrays, each of `rows` bytes per column.
        """
        for column in range(columns):
            task = column * PLAN_WIDTH
            kind = plan[task + KIND]
            first = plan[task + SLOT] * room
            option = plan[task + OPTION]
            at = column * rows
            target = start + targets[column * TARGETS_WIDTH]
            valid = as_uint8(scratch, (columns + column) * rows)
            mask_at = targets[column * TARGETS_WIDTH + 1]
            if mask_at >= 0:
                valid = as_uint8(area, start + mask_at)
            if kind == GIVEN:
                continue
            side = plan[task + SIDE]
            if side >= 0:
                side = side * rows if counts[side * COUNTS_WIDTH + ZEROS] > 0 else -1
            left, fresh, missing, zeros = 0, 0, 0, 0
            if kind == FLOAT:
                prices = as_float64(area, target)
                left, missing = floats(buffer, spans, first, rows, prices, valid, leftover, at)
                if option:
                    zeros, more = blank_prices(rows, prices, valid, scratch, at)
                    missing += more
                elif side >= 0:
                    missing += blank_sizes(rows, prices, valid, scratch, side)
            elif kind == INT:
                whole = as_int64(area, target)
                left, missing = integers(buffer, spans, first, rows, whole, valid, leftover, at, True)
                if side >= 0:
                    missing += blank_sizes(rows, whole, valid, scratch, side)
            elif kind == UINT:
                natural = as_uint64(area, target)
                left, missing = integers(buffer, spans, first, rows, natural, valid, leftover, at, False)
                if side >= 0:
                    missing += blank_sizes(rows, natural, valid, scratch, side)
            elif kind == BOOL:
                flags = as_uint8(scratch, (2 * columns + column) * rows)
                if targets[column * TARGETS_WIDTH] >= 0:
                    flags = as_uint8(area, target)
                left, missing = booleans(buffer, spans, first, rows, flags, valid, leftover, at, option)
            elif kind == TIME:
                moments = as_int64(area, target)
                left, missing = times(buffer, spans, first, rows, moments, valid, leftover, at)
            elif kind == CODE16:
                short = as_uint16(area, target)
                left, fresh, missing = look_up(
                    buffer,
                    spans,
                    first,
                    rows,
                    option,
                    keys,
                    slots,
                    mask,
                    starts,
                    sizes,
                    owners,
                    pool,
                    codes,
                    blanks,
                    scratch,
                    side,
                    short,
                    valid,
                    leftover,
                    numbers,
                    at,
                )
            elif kind == CODE32:
                long = as_uint32(area, target)
                left, fresh, missing = look_up(
                    buffer,
                    spans,
                    first,
                    rows,
                    option,
                    keys,
                    slots,
                    mask,
                    starts,
                    sizes,
                    owners,
                    pool,
                    codes,
                    blanks,
                    scratch,
                    side,
                    long,
                    valid,
                    leftover,
                    numbers,
                    at,
                )
            else:
                came = as_int64(area, target)
                for row in range(rows):
                    came[row] = received[payload[row]]
            first_count = column * COUNTS_WIDTH
            counts[first_count + LEFTOVER] = left
            counts[first_count + NEW_TEXTS] = fresh
            counts[first_count + MISSING] = missing
            counts[first_count + ZEROS] = zeros

    return convert
