"""When to try again, and after how long: policy without I/O."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

FIRST_S = 0.5
CAP_S = 30.0
THROTTLED_LEAST_S = 5.0
"""HTTP 429 at the upgrade means that we reconnected too often: never sooner than this."""

LONGEST_PAUSE_S = 61.0
"""A used-up budget is whole again after a minute; whatever a server asks for, it is tried after that."""

HEALTHY_S = 60.0
"""A process that ran this long before it died is restarted after a short pause again."""

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


def backoff(first: float = FIRST_S, cap: float = CAP_S) -> Iterator[float]:
    """Pauses in seconds: doubling from `first` to `cap`, each shortened by up to half at random.

    The jitter keeps many clients that lost one server from coming back in step.
    """
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, cap)


def pause_asked_for(status: int, headers: Mapping[str, str], now: float) -> float | None:
    """Seconds a response asks us to wait, `LONGEST_PAUSE_S` at most: `Retry-After`; for a 429 else until
    `X-RateLimit-Reset`.

    The reset comes with every response, and says nothing about when a failing server recovers.
    `now` is Unix time, as the reset is. None where nothing was asked for or it cannot be read.
    """
    after = number(headers.get("Retry-After", ""))
    if after is not None:
        return min(after, LONGEST_PAUSE_S)
    reset = number(headers.get("X-RateLimit-Reset", ""))
    if status == 429 and reset is not None:
        return min(max(0.0, reset - now), LONGEST_PAUSE_S)
    return None


def number(text: str) -> float | None:
    """What a header says in digits; None if it says anything else."""
    return float(text) if text.isascii() and text.isdigit() else None
