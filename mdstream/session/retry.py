"""Policy of retries: pauses, without I/O."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from mdstream.venues.alpaca.error_codes import THROTTLED
from mdstream.venues.alpaca.limits import quota_of

FIRST_S = 0.5
CAP_S = 30.0
THROTTLED_LEAST_S = 5.0
"""Least pause after HTTP 429 at the upgrade, which means too many reconnects."""

LONGEST_PAUSE_S = 61.0
"""Longest pause, whatever a server requests: a quota renews within a minute."""

HEALTHY_S = 60.0
"""After a run of this length, a process that dies is restarted after a short pause again."""


def backoff(first: float = FIRST_S, cap: float = CAP_S) -> Iterator[float]:
    """Yield pauses in seconds: doubling from `first` to `cap`, each shortened by up to half at random.

    Because of the jitter, clients that lost the same server do not reconnect at the same time.
    """
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, cap)


def requested_pause(status: int, headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a response asks us to wait, at most `LONGEST_PAUSE_S`: `Retry-After`, or for
    a 429 without it the time until the quota's reset. None if there is none, or it cannot be read.

    For other statuses the reset, which every response has, says nothing about when the server recovers.
    `now` is Unix time, as the reset is.
    """
    quota = quota_of(headers)
    if quota.retry_after is not None:
        return min(quota.retry_after, LONGEST_PAUSE_S)
    if status == THROTTLED and quota.reset is not None:
        return min(max(0.0, quota.reset - now), LONGEST_PAUSE_S)
    return None
