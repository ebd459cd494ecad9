"""Which tickets run side by side in a pool: all of them, but a suspect alone.

    enter() ─► at work ─► leave()                                   beside all others
    accuse() ─► enter_alone() ─► at work ─► leave() ─► clear()      while nobody else is at work

A ticket is a suspect when its worker died: which of those under way killed it cannot be seen. While there
are suspects no other ticket enters. Leaving and clearing never wait, so that a cancelled task does both.
"""

from __future__ import annotations

import asyncio


class Turns:
    """The tickets of one pool. Used in one event loop."""

    busy: int
    """Tickets at work. Written here alone, like all that follows."""
    _suspects: int
    """Those that wait to run alone, or do."""
    _waiting: list[asyncio.Future[None]]

    def __init__(self) -> None:
        self.busy = self._suspects = 0
        self._waiting = []

    async def enter(self) -> None:
        """Wait until there are no suspects, and begin work."""
        while self._suspects:
            await self._change()
        self.busy += 1

    def accuse(self) -> None:
        """Make the caller's ticket a suspect."""
        self._suspects += 1

    async def enter_alone(self) -> None:
        """Wait until nobody is at work, and begin work."""
        while self.busy:
            await self._change()
        self.busy += 1

    def leave(self) -> None:
        """End work."""
        self.busy -= 1
        self._wake()

    def clear(self) -> None:
        """End the suspicion of the caller's ticket, however that came out."""
        self._suspects -= 1
        self._wake()

    async def _change(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
