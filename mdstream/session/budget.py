"""The request budget: the number of REST requests that this feed may make in a minute."""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from collections.abc import Mapping
from pathlib import Path

from mdstream.handoff.space import create_file
from mdstream.venues.alpaca.limits import WINDOW_S, quota_of

_MARGIN_S = 1.0
"""Allowance for the time from here to where the service counts a request."""


class Budget:
    """This feed's share of the account's requests a minute, corrected by the service's headers.

    No period of a minute has more requests than the share; a whole share may be sent at once. When the
    service says that the account has no requests left (other programs use it too), all requests wait until
    the reset.

    `sent` has the times of the last `share` requests, int64 nanoseconds of the machine's monotonic clock, 0
    if there was none. In a file it outlives the process and binds the next one. A budget that `learns` uses
    the service's limit as its share once a header names it.
    """

    # Written by `take`, `read_quota` and `hold`.
    share: int
    _sent: memoryview
    """Times of the last requests: a ring."""
    _oldest: int
    """Index of the oldest time in it."""
    _closed_until: float
    """When requests may be sent again, on the monotonic clock."""

    def __init__(self, share: int, sent: memoryview | None = None, learns: bool = False) -> None:
        self._learns = learns
        self.share = max(1, share)
        self._sent = memoryview(bytearray(8 * self.share)).cast("q") if sent is None else sent
        self._oldest = min(range(len(self._sent)), key=self._sent.__getitem__)
        self._closed_until = 0.0
        self._turn = asyncio.Lock()

    @classmethod
    def in_file(cls, share: int, path: Path) -> Budget:
        """Return a budget with its times in the file at `path`, which is created if necessary."""
        share = max(1, share)
        descriptor = create_file(path, 8 * share)
        try:
            return cls(share, memoryview(mmap.mmap(descriptor, 8 * share)).cast("q"))
        finally:
            os.close(descriptor)

    async def take(self) -> None:
        """Wait until one request may be sent; waiting callers are served in order."""
        async with self._turn:
            while (pause := self._pause()) > 0:
                await asyncio.sleep(pause)
            self._sent[self._oldest] = time.monotonic_ns()
            self._oldest = (self._oldest + 1) % len(self._sent)

    def read_quota(self, headers: Mapping[str, str]) -> None:
        """Read the quota in an answer's headers; when nothing remains, hold until the reset."""
        quota = quota_of(headers)
        if self._learns and quota.limit and int(quota.limit) != self.share:
            self._learn(int(quota.limit))
        if quota.remaining == 0 and quota.reset is not None:
            self.hold(min(WINDOW_S, quota.reset - time.time()))

    def hold(self, seconds: float) -> None:
        """Send nothing for `seconds`."""
        self._closed_until = max(self._closed_until, time.monotonic() + max(0.0, seconds))

    @property
    def waits_s(self) -> float:
        """Seconds until the next request may be sent."""
        return max(0.0, self._pause())

    def _learn(self, share: int) -> None:
        """Change the share; keep the times of the latest requests."""
        latest = sorted(self._sent)[-share:]
        self.share, self._oldest = share, 0
        self._sent = memoryview(bytearray(8 * share)).cast("q")
        for place, sent in enumerate(latest, share - len(latest)):
            self._sent[place] = sent

    def _pause(self) -> float:
        """Return the seconds until the next request may be sent."""
        oldest, now_ns = self._sent[self._oldest], time.monotonic_ns()
        left = (oldest - now_ns + (WINDOW_S + _MARGIN_S) * 1e9) / 1e9 if oldest else 0.0
        return max(left, self._closed_until - now_ns / 1e9)
