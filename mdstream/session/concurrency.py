"""How many requests are under way at a time: fewer after a time-out, slowly more after answers.

    answer in time ─► limit + 1/limit   (about one more for each round of answers)
    time-out       ─► half of the most that were under way   (once for all that were sent before)

A congested server answers none of many requests in time, but some of few. Without this rule, requests that
time out are sent again and keep it congested.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Concurrency:
    """Places for at most `most` requests at a time. Callers get them in order."""

    # Written only here.
    limit: float
    """How many requests may be under way now, at least 1."""
    under_way: int
    _peak: int
    """The most that were under way since the limit was lowered last."""
    _sent: int
    """Requests sent so far."""
    _lowered_at: int
    """`_sent` when the limit was lowered last: time-outs of earlier requests do not lower it again."""
    _waiting: deque[asyncio.Future[None]]

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.under_way = self._peak = 0
        self._sent = self._lowered_at = 0
        self._waiting = deque()

    async def acquire(self) -> None:
        """Wait for a place."""
        if self._waiting or self.under_way >= int(self.limit):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self.release()  # it had got the place
                raise
        else:
            self._enter()

    def send(self) -> int:
        """Count a request that is sent now; return its number, for `time_out`."""
        self._sent += 1
        return self._sent

    def release(self) -> None:
        """Free a place."""
        self.under_way -= 1
        self._let_in()

    def answer(self) -> None:
        """Note an answer in time."""
        self.limit = min(self.most, self.limit + 1 / self.limit)
        self._let_in()

    def time_out(self, number: int) -> bool:
        """Note that request `number` got no answer in time; return whether that lowered the limit."""
        if number <= self._lowered_at or self.limit <= 1:
            return False
        self._lowered_at = self._sent
        self.limit = max(1.0, min(self.limit, self._peak) / 2)
        self._peak = self.under_way
        return True

    def _enter(self) -> None:
        self.under_way += 1
        self._peak = max(self._peak, self.under_way)

    def _let_in(self) -> None:
        """Give free places to those who wait."""
        while self._waiting and self.under_way < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self._enter()
                turn.set_result(None)
