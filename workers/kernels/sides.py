"""Sides of a quote that are not there: the service sends a price of 0, and nothing beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels.compiling import inlined


@inlined
def blank_prices(rows: int, values: Any, there: Any, absent: Any, side: int) -> tuple[int, int]:
    """Mark in `absent`, from `side` on, the rows whose price is 0, which then is no price; how many such
    rows there are, and how many of them had a value.
    """
    zeros = np.int64(0)
    blanked = np.int64(0)
    for row in range(rows):
        zero = values[row] == 0.0
        absent[side + row] = zero
        zeros += zero
        if zero and there[row]:
            there[row] = 0
            blanked += 1
    return zeros, blanked


@inlined
def blank_sizes(rows: int, values: Any, there: Any, absent: Any, side: int) -> int:
    """Take out sizes of 0 where `absent`, from `side` on, says that the side is; how many these were."""
    blanked = np.int64(0)
    for row in range(rows):
        if absent[side + row] and values[row] == 0 and there[row]:
            there[row] = 0
            blanked += 1
    return blanked
