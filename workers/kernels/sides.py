"""Absent sides of a quote: the service sends a price of 0 and nothing beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels.compiling import inlined


@inlined
def blank_prices(rows: int, values: Any, valid: Any, absent: Any, side: int) -> tuple[int, int]:
    """Mark the rows whose price is 0 in `absent`, from `side` on; the price is then null.

    Return how many such rows there are, and how many of them had a value.
    """
    zeros = np.int64(0)
    blanked = np.int64(0)
    for row in range(rows):
        zero = values[row] == 0.0
        absent[side + row] = zero
        zeros += zero
        if zero and valid[row]:
            valid[row] = 0
            blanked += 1
    return zeros, blanked


@inlined
def blank_sizes(rows: int, values: Any, valid: Any, absent: Any, side: int) -> int:
    """Clear sizes of 0 where `absent`, from `side` on, marks the side as absent; return their number."""
    blanked = np.int64(0)
    for row in range(rows):
        if absent[side + row] and values[row] == 0 and valid[row]:
            valid[row] = 0
            blanked += 1
    return blanked
