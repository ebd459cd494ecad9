"""Sides of a quote that are not there: the service sends a price of 0, and nothing beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels.compiling import inlined


@inlined
def blank_prices(values: Any, there: Any, absent: Any) -> tuple[int, int]:
    """Mark in `absent` (a row each, or empty for a column that is no quote's price) where the price is 0,
    which then is no price; how many such rows there are, and how many of them had a value.
    """
    zeros = np.int64(0)
    blanked = np.int64(0)
    for row in range(len(absent)):
        zero = values[row] == 0.0
        absent[row] = zero
        zeros += zero
        blanked += zero and there[row]
        there[row] = there[row] and not zero
    return zeros, blanked


@inlined
def blank_sizes(values: Any, there: Any, absent: Any) -> int:
    """Take out sizes of 0 where the side is `absent` (a row each, or empty); how many these were."""
    blanked = np.int64(0)
    for row in range(len(absent)):
        if absent[row] and values[row] == 0 and there[row]:
            there[row] = False
            blanked += 1
    return blanked
