"""The request budget: how many REST requests a minute this feed may make."""

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
"""A request may take a moment from here to where it is counted: a new connection costs some."""


class Budget:
    """This feed's share of the account's requests a minute, corrected by what the service says.

    In no minute, wherever it begins, are there more requests than the share; a whole share may go
    out at once. When the service says that the account has nothing left (other programs use it,
    too), all requests wait until the reset.

    `sent` holds the times of the last `share` requests, int64 nanoseconds of the machine's monotonic
    clock, 0 where there was none. In a file it outlives the process, and the next one keeps to it too.
    A budget that `learns` takes the service's limit as its share once a header has named it.
    """

    # Written by `take`, `hear` and `hold`.
    share: int
    _sent: memoryview
    """Times of the last requests: a ring."""
    _oldest: int
    """The oldest one's place in it."""
    _closed_until: float
    """When requests may go out again, on the monotonic clock."""

    def __init__(self, share: int, sent: memoryview | None = None, learns: bool = False) -> None:
        self._learns = learns
        self.share = max(1, share)
        self._sent = memoryview(bytearray(8 * self.share)).cast("q") if sent is None else sent
        self._oldest = min(range(len(self._sent)), key=self._sent.__getitem__)
        self._closed_until = 0.0
        self._turn = asyncio.Lock()

    @classmethod
    def in_file(cls, share: int, path: Path) -> Budget:
        """A budget whose times are in the file at `path`, there already or not."""
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

    def hear(self, headers: Mapping[str, str]) -> None:
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
        """Change the share, and keep the times of the latest requests."""
        latest = sorted(self._sent)[-share:]
        self.share, self._oldest = share, 0
        self._sent = memoryview(bytearray(8 * share)).cast("q")
        for place, sent in enumerate(latest, share - len(latest)):
            self._sent[place] = sent

    def _pause(self) -> float:
        """Seconds until the next request may go."""
        oldest, now_ns = self._sent[self._oldest], time.monotonic_ns()
        left = (oldest - now_ns + (WINDOW_S + _MARGIN_S) * 1e9) / 1e9 if oldest else 0.0
        return max(left, self._closed_until - now_ns / 1e9)
