"""Find the layout that a message has. The layout that fitted last is tried first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from workers.kernels import ops
from workers.kernels.compiling import inlined
from workers.kernels.words import MASKS, load64

NO_FIT = -1
NO_ROOM = -2


@inlined
def literal_fits(buffer: Any, i: int, end: int, words: Any, first: int, length: int) -> bool:
    """Return whether the literal is at byte `i` and ends at or before `end`."""
    if i + length > end:
        return False
    left = length
    while left > 8:
        if load64(buffer, i) != words[first]:
            return False
        i += 8
        first += 1
        left -= 8
    if left == 0:
        return True
    differing = load64(buffer, i) ^ words[first]
    return differing << np.uint64(64 - 8 * left) == 0


def make_fit(follow: Callable[..., tuple[int, int]]) -> Any:
    """Return a layout search for one codec; `follow` walks its messages."""

    @inlined
    def fit(
        buffer: Any,
        i: int,
        end: int,
        words: Any,
        steps: Any,
        items: Any,
        layouts: Any,
        known: int,
        spans: Any,
        room: int,
        rows: Any,
        last: int,
    ) -> tuple[int, int, int]:
        """Return where the message at byte `i` ends, the next free row, and its layout.

        A negative end is `NO_FIT`, or `NO_ROOM` for its rows.
        """
        word = load64(buffer, i)
        for turn in range(known):
            layout = last + turn
            if layout >= known:
                layout -= known
            first = layouts[layout * ops.LAYOUT_WIDTH + ops.FIRST]
            start = words[steps[first + ops.LITERAL]]
            if (word ^ start) & MASKS[layouts[layout * ops.LAYOUT_WIDTH + ops.START]]:
                continue
            row = rows[layouts[layout * ops.LAYOUT_WIDTH + ops.CHANNEL]]
            if row >= room:
                return np.int64(NO_ROOM), row, layout
            stop, top = follow(buffer, i, end, words, steps, items, first, spans, room, row, True)
            if stop == NO_FIT:
                stop, top = follow(buffer, i, end, words, steps, items, first, spans, room, row, False)
            if stop >= 0 or stop == NO_ROOM:
                return stop, top, layout
        return np.int64(NO_FIT), np.int64(0), last

    return fit
