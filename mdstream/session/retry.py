"""When to try again, and after how long: policy without I/O."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from mdstream.venues.alpaca.error_codes import THROTTLED
from mdstream.venues.alpaca.limits import quota_of

FIRST_S = 0.5
CAP_S = 30.0
THROTTLED_LEAST_S = 5.0
"""HTTP 429 at the upgrade means too many reconnects; the next one waits at least this long."""

LONGEST_PAUSE_S = 61.0
"""A quota renews within a minute, so no pause is longer, whatever a server asks for."""

HEALTHY_S = 60.0
"""A process that ran this long before it died is restarted after a short pause again."""


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
    the quota's reset.

    The reset comes with every response, and says nothing about when a failing server recovers.
    `now` is Unix time, as the reset is. None where nothing was asked for or it cannot be read.
    """
    quota = quota_of(headers)
    if quota.retry_after is not None:
        return min(quota.retry_after, LONGEST_PAUSE_S)
    if status == THROTTLED and quota.reset is not None:
        return min(max(0.0, quota.reset - now), LONGEST_PAUSE_S)
    return None
