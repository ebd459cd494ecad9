"""The two clocks. Everything that waits or measures uses the monotonic one; the wall clock is for data.

    monotonic   waits, deadlines, heartbeats, latencies: it never jumps, and all processes share it
    wall        receive times, times of events, names: anybody may set it at any moment

Receive times are those of `receipts`: a wall clock that does not go back, so that what was received later
has no earlier time, and an amendment comes after its trade.

A process may also be stopped for any time: a frozen container, a suspended machine, a debugger. Time in
which the watcher did not run says nothing about what it watches, so `Awake` and `timeout` do not count it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MOST_GAP_S = 2.0
"""A longer gap between two looks at a clock means that the process was stopped in between."""
_LOOK_S = 0.5
_STEP_NS = 100_000_000
"""Clocks that drift apart by more than this while a batch is filled do so because one of them was set."""


class ReceiptClock:
    """The wall clock for receive times, which never goes back.

    When somebody has set the wall clock back, it goes on at half the speed until that has caught up.
    """

    # Written by `now`.
    ahead: int
    """What it was ahead of the wall clock at the last look (ns)."""
    _last: int
    _looked_at: int

    def __init__(self) -> None:
        self.ahead = self._last = self._looked_at = 0

    def now(self) -> int:
        """Return the receive time of what arrives now (ns)."""
        wall, monotonic = time.time_ns(), time.monotonic_ns()
        last = self._last + (monotonic - self._looked_at >> 1)
        self._looked_at = monotonic
        if wall >= last:
            self._last, self.ahead = wall, 0
        else:
            self._last, self.ahead = last, last - wall
        return self._last


receipts = ReceiptClock()
"""The clock of this process."""


class Moment(NamedTuple):
    """One moment by both clocks, in nanoseconds."""

    wall: int
    """By the clock of receive times."""
    monotonic: int

    @classmethod
    def now(cls) -> Moment:
        return cls(receipts.now(), time.monotonic_ns())

    def wall_at(self, monotonic: int) -> int:
        """Return the wall-clock time of another moment, as if nobody had set the clock in between."""
        return self.wall + monotonic - self.monotonic


class Span(NamedTuple):
    """The time in which the payloads of a batch were received, until it was submitted."""

    begun: Moment
    submitted: Moment

    @classmethod
    def at(cls, moment: Moment) -> Span:
        return cls(moment, moment)

    @property
    def is_steady(self) -> bool:
        """Whether nobody set the wall clock within the span."""
        begun, submitted = self
        return abs(submitted.wall - begun.wall_at(submitted.monotonic)) <= _STEP_NS

    def ages(self, received: npt.NDArray[np.int64], now: int) -> npt.NDArray[np.int64]:
        """Return the ages in ns, at `now` (monotonic), of payloads with these receive times, in order.

        If the wall clock was set within the span, the greatest jump in the receive times shows where.
        """
        begun, submitted = self
        step = submitted.wall - begun.wall_at(submitted.monotonic)
        if abs(step) > _STEP_NS and len(received):
            times = np.concatenate(([begun.wall], received, [submitted.wall]))
            jump = int(np.argmax(np.diff(times) * np.sign(step)))
            received = received + np.where(np.arange(len(received)) < jump, step, 0)
        return submitted.wall_at(now) - received


class Awake:
    """Measures the time in which this process ran. Call `now` more often than every `MOST_GAP_S`."""

    # Written by `now`.
    _seconds: float
    _looked_at: float

    def __init__(self, read: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._seconds, self._looked_at = 0.0, read()

    def now(self) -> float:
        """Return the seconds that have passed, without gaps in which the process did not run."""
        before, self._looked_at = self._looked_at, self._read()
        gap = self._looked_at - before
        if gap <= MOST_GAP_S:
            self._seconds += gap
        return self._seconds


def until_beat(period_s: float) -> float:
    """Return the seconds until about the next multiple of `period_s`, when all who wait for it wake up."""
    left = period_s - asyncio.get_running_loop().time() % period_s
    return left if left > period_s / 10 else left + period_s


async def next_beat(period_s: float) -> None:
    """Sleep until about the next multiple of `period_s` (see `until_beat`)."""
    await asyncio.sleep(until_beat(period_s))


class timeout:  # noqa: N801 - used like `asyncio.timeout`
    """Raise `TimeoutError` in the task once the process has run for `seconds` inside of the context."""

    def __init__(self, seconds: float) -> None:
        self._awake = Awake()
        self._seconds = seconds
        self._limit = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._limit.__aenter__()
        self._timer = self._loop.call_later(min(_LOOK_S, self._seconds), self._look)

    async def __aexit__(self, *error: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*error)

    def _look(self) -> None:
        left = self._seconds - self._awake.now()
        if left <= 0:
            self._limit.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(min(_LOOK_S, left), self._look)
