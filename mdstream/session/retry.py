"""When to try again, and after how long: policy without I/O."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

FIRST_S = 0.5
CAP_S = 30.0
THROTTLED_LEAST_S = 5.0
"""HTTP 429 at the upgrade means that we reconnected too often: never sooner than this."""

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
    """Seconds a response asks us to wait: `Retry-After`; for a 429 else until `X-RateLimit-Reset`.

    The reset comes with every response, and says nothing about when a failing server recovers.
    `now` is Unix time, as the reset is. None where nothing was asked for or it cannot be read.
    """
    after = headers.get("Retry-After", "")
    if after.isdigit():
        return float(after)
    reset = headers.get("X-RateLimit-Reset", "")
    if status == 429 and reset.isdigit():
        return max(0.0, float(reset) - now)
    return None
