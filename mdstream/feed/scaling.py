"""Decide how many workers a feed needs, by what its batches cost. Pure; `feed.scaler` acts.

    CPU time of decoding, per heartbeat ─┬► too much, or batches wait, for a second ─► more workers
    age of the oldest waiting batch ─────┴► would fit in fewer for 15 seconds ───────► fewer

The measure is CPU time of decoding, in cores, wherever it was spent. It means the same inline and in
workers, so a change of the number does not change it much. On a machine that is full, a feed or a worker
gets less of it. Then only batches that wait are a reason for one more process to share the cores with.

1. The first worker is due when decoding in it would relieve the feed of `_BUSY` of a core, or of `_SOME`
   while batches wait. A batch that a worker decodes still costs the feed its hand-off. So batches count
   only as far as they cost more than that: thousands of single messages a second stay inline, because
   handing them off is as much work.
2. More are due when those that run decode most of their time, or when batches wait although all work. Their
   number grows by half, so that a few changes reach a large one.
3. Fewer are due when the load of each of the last seconds fits in them with room to spare, and no batch has
   waited. The thresholds down are well below those up, so that a steady load changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

HANDOFF_S = 150e-6
"""CPU time that a hand-off costs the feed: ticket, packet, receipt, wake-ups.

Measured as the CPU time of a feed per batch with one worker, less that of one without workers but for its
decoding: 80 µs for batches of 3 messages, 190 for 17, 250 for 170, 380 for 1,000 (2 cores, 2026-11-30).
Decoding these took 0.4 to 1.2 ms with cold caches, 3.2 ms for full slabs.
"""
_BUSY = 0.35
"""Part of a core of which a worker relieves its feed at least. Receiving and committing cost the feed about
as much again as decoding, so it still has a third of its core left when the first worker starts.
"""
_FULL = 0.8
"""Part of their time that workers decode when more are due."""
_LATE_S = 0.1
"""Age of the oldest batch from which batches count as waiting. Decoding a full slab takes some 5 ms."""
_SOME = 0.05
"""Part of a core that is worth a worker while batches wait. Four feeds that share one core, and are behind,
decode about 0.1 of it each.
"""
_PRESSED = 4
"""Heartbeats in a row, one second, that make more workers due: a burst of REST bodies is shorter."""
_IDLE = 0.15
"""Part of a core that is not worth a worker."""
_EASY = 0.5
"""Part of their time that fewer workers would decode at most."""
CALM_S = 15.0
"""How long the load must have fit in fewer workers."""


@dataclass(slots=True)
class Work:
    """Decoded batches, and the CPU time of decoding them."""

    batches: int = 0
    cpu_ns: int = 0

    def add(self, cpu_ns: int) -> None:
        self.batches += 1
        self.cpu_ns += cpu_ns


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a feed since its last heartbeat.

    `decoding`: CPU time of decoding, in cores. `batches_per_s`: their rate. `lag_s`: age of the oldest
    batch that is not committed. `queued`: batches that wait although all workers are busy.
    """

    decoding: float
    batches_per_s: float = 0.0
    lag_s: float = 0.0
    queued: int = 0

    @property
    def is_late(self) -> bool:
        """Whether batches wait."""
        return self.lag_s >= _LATE_S

    @property
    def relief(self) -> float:
        """What a worker would take off the feed, in cores."""
        return self.decoding - self.batches_per_s * HANDOFF_S


@dataclass(frozen=True, slots=True)
class Change:
    """A wanted number of workers, and the reason."""

    workers: int
    reason: str


class Scaling:
    """The policy for one feed with at most `most` workers."""

    # Written only here.
    _pressed: list[Load]
    """The last heartbeats in a row that asked for more workers."""
    _calm_since: float | None
    """When the load began to fit in fewer workers, on the monotonic clock; None if it does not."""
    _needed: int
    """The most workers that were needed since."""
    _highest: float
    """The highest `decoding` since."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.restart()

    def restart(self) -> None:
        """Forget the past: the number of workers has changed, or could not be changed."""
        self._pressed = []
        self._calm_since, self._needed, self._highest = None, 0, 0.0

    def decide(self, load: Load, workers: int, now: float) -> Change | None:
        """Return the change that is due at a heartbeat with `workers` workers; None if it is none."""
        if _is_pressed(load, workers):
            self._calm_since = None
            self._pressed.append(load)
            if len(self._pressed) < _PRESSED:
                return None
            change = self._grow(workers)
            self._pressed.clear()
            return change if workers < self._most else None
        self._pressed.clear()
        needed = _count_needed(load)
        if needed >= workers:
            self._calm_since = None
            return None
        if self._calm_since is None:
            self._calm_since, self._needed, self._highest = now, 0, 0.0
        self._needed = max(self._needed, needed)
        self._highest = max(self._highest, load.decoding)
        return self._shrink() if now - self._calm_since >= CALM_S else None

    def _grow(self, workers: int) -> Change:
        wanted = min(self._most, workers + max(1, workers // 2))
        mean = sum(load.decoding for load in self._pressed) / len(self._pressed)
        if not all(map(partial(_is_full, workers=workers), self._pressed)):
            waited = min(load.lag_s for load in self._pressed)
            return Change(wanted, f"batches waited for {waited:.1f} s or more")
        if not workers:
            return Change(wanted, f"decoding took {mean:.0%} of the feed's time")
        return Change(wanted, f"{describe(workers)} decoded {mean / workers:.0%} of the time")

    def _shrink(self) -> Change:
        return Change(
            self._needed, f"decoding took at most {self._highest:.0%} of a core for {CALM_S:.0f} s"
        )


def describe(workers: int) -> str:
    """Return a number of workers in words."""
    return f"{workers or 'no'} worker{'s' if workers != 1 else ''}"


def _is_pressed(load: Load, workers: int) -> bool:
    """Return whether more workers would help."""
    if _is_full(load, workers):
        return True
    return load.is_late and (load.queued > 0 if workers else load.relief >= _SOME)


def _is_full(load: Load, workers: int) -> bool:
    """Return whether those who decode do so most of their time, or a feed too much of its."""
    return load.decoding >= _FULL * workers if workers else load.relief >= _BUSY


def _count_needed(load: Load) -> int:
    """Return how many workers do the work with room to spare."""
    return 0 if load.relief < _IDLE else math.ceil(load.decoding / _EASY)
