"""Run the tickets of a pool in parallel, but each suspect alone.

    enter() ─► running ─► leave()                                   in parallel with others
    accuse() ─► enter_alone() ─► running ─► leave() ─► clear()      while no other ticket runs

When a worker dies, it is unknown which running ticket killed it, so all of them are suspects. While there
are suspects no other ticket enters. `leave` and `clear` never wait, so that a cancelled task can call both.
"""

from __future__ import annotations

import asyncio


class Turns:
    """The tickets of one pool. Used in one event loop."""

    busy: int
    """Running tickets. Written only here, as all that follows."""
    _suspects: int
    """Suspects that wait to run alone, or run."""
    _waiting: list[asyncio.Future[None]]

    def __init__(self) -> None:
        self.busy = self._suspects = 0
        self._waiting = []

    async def enter(self) -> None:
        """Wait until there are no suspects, and start to run."""
        while self._suspects:
            await self.change()
        self.busy += 1

    def accuse(self) -> None:
        """Make the caller's ticket a suspect."""
        self._suspects += 1

    async def enter_alone(self) -> None:
        """Wait until no ticket runs, and start to run."""
        while self.busy:
            await self.change()
        self.busy += 1

    def leave(self) -> None:
        """Stop running."""
        self.busy -= 1
        self._wake()

    def clear(self) -> None:
        """Make the caller's ticket no longer a suspect, whatever the result."""
        self._suspects -= 1
        self._wake()

    @property
    def are_over(self) -> bool:
        """Whether no ticket runs, and no suspect waits to run."""
        return not self.busy and not self._suspects

    async def change(self) -> None:
        """Wait until a ticket stops running, or is no longer a suspect."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
