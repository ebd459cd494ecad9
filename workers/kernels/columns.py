"""Pass 2: all columns of a channel at once, from spans to values in the result area.

A plan says what becomes of each column, in `PLAN_WIDTH` numbers. What a column leaves over is told in
`counts`, `COUNTS_WIDTH` numbers a column, and in `odd` and `numbers`, `rows` of each a column: rows that
go to the fallback decoder from the front, texts without a code from the back.
"""

from __future__ import annotations

from typing import Any

from workers.kernels.compiling import called, inlined
from workers.kernels.sides import blank_prices, blank_sizes
from workers.kernels.texts import look_up
from workers.kernels.words import as_float64, as_int64, as_uint8, as_uint16, as_uint32, as_uint64

# A plan's numbers for each column.
KIND = 0
SLOT = 1
"""Row of its spans."""
WIDTH = 2
"""Bytes a value."""
MASKED = 3
"""Whether there is a place for its mask, behind its values."""
OPTION = 4
"""FLOAT: whether it is the price of a quote's side. BOOL: what missing ones are. Codes: whose texts."""
SIDE = 5
"""The column of the price that tells whether its side of a quote is there; negative if there is none."""
PLAN_WIDTH = 6

ALIGNMENT = 8
"""Values and masks begin at a multiple of this (`mdstream.handoff.columns`)."""

# Kinds.
FLOAT = 0
INT = 1
UINT = 2
BOOL = 3
TIME = 4
CODE16 = 5
CODE32 = 6
RECEIVED = 7
"""When the payload of the row came."""
GIVEN = 8
"""Its values are there already."""

# What is told of each column.
STRANGE = 0
FRESH = 1
MISSING = 2
ZEROS = 3
COUNTS_WIDTH = 4


@inlined
def _align(size: int) -> int:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def converting(floats: Any, integers: Any, booleans: Any, times: Any) -> Any:
    """The pass for one codec, whose values these functions read."""

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
        odd: Any,
        numbers: Any,
        counts: Any,
    ) -> None:
        """The first column begins at byte `start`, each has its mask behind it, if there is room for one.
        `scratch` uint8: two arrays of `rows` a column, the sides that are absent and the masks that have no
        place.
        """
        for column in range(columns):
            task = column * PLAN_WIDTH
            kind = plan[task + KIND]
            first = plan[task + SLOT] * room
            option = plan[task + OPTION]
            at = column * rows
            target = start
            start += _align(rows * plan[task + WIDTH])
            there = as_uint8(scratch, (columns + column) * rows)
            if plan[task + MASKED]:
                there = as_uint8(area, start)
                start += _align(rows)
            if kind == GIVEN:
                continue
            side = plan[task + SIDE]
            if side >= 0:
                side = side * rows if counts[side * COUNTS_WIDTH + ZEROS] > 0 else -1
            strange, fresh, missing, zeros = 0, 0, 0, 0
            if kind == FLOAT:
                prices = as_float64(area, target)
                strange, missing = floats(buffer, spans, first, rows, prices, there, odd, at)
                if option:
                    zeros, more = blank_prices(rows, prices, there, scratch, at)
                    missing += more
                elif side >= 0:
                    missing += blank_sizes(rows, prices, there, scratch, side)
            elif kind == INT:
                whole = as_int64(area, target)
                strange, missing = integers(buffer, spans, first, rows, whole, there, odd, at, True)
                if side >= 0:
                    missing += blank_sizes(rows, whole, there, scratch, side)
            elif kind == UINT:
                natural = as_uint64(area, target)
                strange, missing = integers(buffer, spans, first, rows, natural, there, odd, at, False)
                if side >= 0:
                    missing += blank_sizes(rows, natural, there, scratch, side)
            elif kind == BOOL:
                flags = as_uint8(area, target)
                strange, missing = booleans(buffer, spans, first, rows, flags, there, odd, at, option)
            elif kind == TIME:
                moments = as_int64(area, target)
                strange, missing = times(buffer, spans, first, rows, moments, there, odd, at)
            elif kind == CODE16:
                short = as_uint16(area, target)
                strange, fresh, missing = look_up(
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
                    there,
                    odd,
                    numbers,
                    at,
                )
            elif kind == CODE32:
                long = as_uint32(area, target)
                strange, fresh, missing = look_up(
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
                    there,
                    odd,
                    numbers,
                    at,
                )
            else:
                came = as_int64(area, target)
                for row in range(rows):
                    came[row] = received[payload[row]]
            told = column * COUNTS_WIDTH
            counts[told + STRANGE] = strange
            counts[told + FRESH] = fresh
            counts[told + MISSING] = missing
            counts[told + ZEROS] = zeros

    return convert
