"""Policy of retries: pauses, without I/O."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping

from mdstream.venues.alpaca.limits import quota_of
from mdstream.venues.alpaca.refusals import DOUBT_S, FIRST_DOUBT_S, THROTTLED, RefusalKind, Rule

FIRST_S = 0.5
CAP_S = 30.0
THROTTLED_LEAST_S = 5.0
"""Least pause after HTTP 429 at the upgrade, which means too many reconnects."""

LONGEST_PAUSE_S = 61.0
"""Longest pause, whatever a server requests: a quota renews within a minute."""

RECONNECT_S = 0.25
RECONNECT_CAP_S = 10.0
RECONNECT_GROWTH = 1.25
"""Pauses between attempts to connect again. What an absence of the server costs beyond it is at most
half of it, or the cap.
"""
AT_ONCE_S = 0.1
"""Longest pause before the first attempt to connect again."""

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


def reconnect_pauses() -> Iterator[float]:
    """Yield pauses in seconds after a lost connection: at most `AT_ONCE_S`, then growing slowly up to
    `RECONNECT_CAP_S`, each shortened by up to half at random.
    """
    yield AT_ONCE_S * random.uniform(0.0, 1.0)
    pause = RECONNECT_S
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * RECONNECT_GROWTH, RECONNECT_CAP_S)


class Doubt:
    """Whether a refusal is believed: a key and address that have worked are rarely wrong a moment later.

    `has_worked`: whether there was a success before this object existed.
    """

    # Written by `succeed` and `seconds_left`.
    has_worked: bool
    _since: float | None
    """When the first of the refusals came that no success has followed, on the monotonic clock."""

    def __init__(self, has_worked: bool = False) -> None:
        self.has_worked = has_worked
        self._since = None

    def succeed(self) -> None:
        """Note a success: later refusals are doubted."""
        self.has_worked = True
        self._since = None

    def seconds_left(self, rule: Rule, now: float) -> float:
        """Return how long a refusal counts as temporary from `now` on: 0 if it is final."""
        kind = rule.kind(self.has_worked)
        if kind is RefusalKind.TEMPORARY:
            return math.inf
        if kind is not RefusalKind.DOUBTFUL:
            return 0.0
        if self._since is None:
            self._since = now
        return max(0.0, self._since + (DOUBT_S if self.has_worked else FIRST_DOUBT_S) - now)


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
