"""The request budget: how many REST requests a minute this feed may make."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from aiolimiter import AsyncLimiter

WINDOW_S = 60.0


class Budget:
    """This feed's share of the account's requests a minute, corrected by what the service says.

    A whole share may go out at once, then requests follow as it refills. When the service says
    that the account has nothing left (other programs use it too), all wait until it says so no more.
    """

    # The mutable state: the limiter, and the monotonic time before which nothing is sent.

    def __init__(self, share: int) -> None:
        self.share = max(1, share)
        self.waited_s = 0.0
        self._limiter = AsyncLimiter(self.share, WINDOW_S)
        self._closed_until = 0.0

    async def take(self) -> None:
        """Wait for leave to send one request."""
        started = time.monotonic()
        await self._limiter.acquire()
        while (pause := self._closed_until - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        self.waited_s += time.monotonic() - started

    def hear(self, headers: Mapping[str, str]) -> None:
        """Take note of `X-RateLimit-*`; when nothing remains, hold back until the reset."""
        if headers.get("X-RateLimit-Remaining") == "0":
            reset = headers.get("X-RateLimit-Reset", "")
            if reset.isdigit():
                self.hold(min(WINDOW_S, float(reset) - time.time()))

    def hold(self, seconds: float) -> None:
        """Send nothing for `seconds`."""
        self._closed_until = max(self._closed_until, time.monotonic() + max(0.0, seconds))
