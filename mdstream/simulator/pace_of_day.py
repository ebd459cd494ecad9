"""How many messages are due at a time: at a constant rate, or at one that rises and falls within a day."""

from __future__ import annotations

from math import pi, sin


def count_due(seconds: float, rate: float, day_s: float) -> float:
    """Return the messages due after `seconds`, at `rate` messages/s, or at most that in a day of `day_s`.

    Within a day the rate is `rate` · sin²(π · t / `day_s`): 0 at its ends, full in the middle, and half of
    it on average. The result is the integral of that.
    """
    if not day_s:
        return rate * seconds
    return rate * (seconds / 2 - day_s / (4 * pi) * sin(2 * pi * seconds / day_s))
