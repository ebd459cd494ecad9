"""The slabs of one feed: a bounded pool of memory for payloads that are not committed yet.

    take(length) ─► fill ─► decode ─► commit ─► release(slab) ─┐
        ▲                                                      │
        └────────── free slabs, most recently used first ◄─────┘

1. There are never more than `bound` slabs. When all are in use, `take` returns None: a stall.
2. A payload that is larger than the usual slab gets a slab of its own, which `release` removes.
3. `trim` removes slabs that were idle for `IDLE_S`; `evict` removes one when its memory is needed.
4. If the file system has no room for another slab, `take` uses only those that exist.

`choose` and `count_idle` decide; `SlabPool` acts. Slabs are plain files: any file system will do.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from mdstream.errors import NoSpaceError
from mdstream.handoff.slab import Slab

IDLE_S = 10.0
"""How long a slab must be idle before it is removed."""


class SlabStatistics(NamedTuple):
    """State and history of a pool of slabs."""

    bound: int
    """Slabs that may exist."""
    existing: int
    free: int
    in_use: int
    created: int
    removed: int
    stalls: int
    """How often all slabs were in use when one was needed."""


# -- policy


class TakeMethod(Enum):
    """How to get a slab."""

    REUSE = auto()
    CREATE = auto()
    REPLACE = auto()
    """Remove a free one that is too small, and create a larger one."""
    WAIT = auto()


def choose(fits_usual_size: bool, existing: int, free: int, bound: int) -> TakeMethod:
    """Return how to get a slab; `fits_usual_size` says whether the usual size is large enough."""
    if fits_usual_size and free:
        return TakeMethod.REUSE
    if existing < bound:
        return TakeMethod.CREATE
    return TakeMethod.REPLACE if free else TakeMethod.WAIT


def count_idle(least_free: int) -> int:
    """Return how many of `least_free` slabs to remove: all but one, kept as a spare."""
    return max(0, least_free - 1)


# -- the pool


class SlabPool:
    """The slabs of `stream` in `folder`: at most `bound`, each with room for `capacity` bytes.

    `stalls` is the count of a killed predecessor.
    """

    # Written by the pool alone.
    _free: list[Slab]
    """The most recently used one is last: it is still in the processor's cache."""
    _existing: int
    _number: int
    """The number in the name of the next slab."""
    _least_free: int
    """The smallest number of free slabs since `_trimmed_at`."""
    _trimmed_at: float
    """In seconds of a monotonic clock."""
    _created: int
    _removed: int
    _stalls: int
    _is_stalled: bool

    def __init__(self, folder: Path, stream: str, bound: int, capacity: int, stalls: int = 0) -> None:
        self.folder = folder
        self.stream = stream
        self.bound = bound
        self.capacity = capacity
        self._free = []
        self._existing = self._least_free = self._created = self._removed = 0
        self._stalls = stalls
        self._number = 1
        self._trimmed_at = float("-inf")
        self._is_stalled = False

    def adopt(self, in_use: Iterable[Slab], free: Iterable[Slab]) -> None:
        """Take over the slabs of a killed predecessor."""
        for slab in in_use:
            self._adopt(slab)
        for slab in free:
            self._adopt(slab)
            self.release(slab)

    def _adopt(self, slab: Slab) -> None:
        self._existing += 1
        self._number = max(self._number, number_of(slab.path) + 1)

    def take(self, length: int) -> Slab | None:
        """Return a slab with room for at least `length` bytes; None while there is none.

        Raises `NoSpaceError` if there is no memory for another slab, and none is in use.
        """
        method = choose(length <= self.capacity, self._existing, len(self._free), self.bound)
        if method is TakeMethod.REUSE:
            slab = self._free.pop()
            self._least_free = min(self._least_free, len(self._free))
            self._is_stalled = False
            return slab
        if method is TakeMethod.WAIT:
            self._stall()
            return None
        if method is TakeMethod.REPLACE:
            self.evict()
        try:
            slab = Slab.create(self._next_path(), max(length, self.capacity))
        except NoSpaceError:
            if self._existing == len(self._free):
                raise
            self._stall()
            return None
        self._number += 1
        self._existing += 1
        self._created += 1
        self._is_stalled = False
        return slab

    def spare(self, length: int) -> Slab | None:
        """Return a free slab with room for `length` bytes, which stays free; None if there is none."""
        return self._free[-1] if self._free and length <= self.capacity else None

    def release(self, slab: Slab) -> None:
        """Take back a slab whose batch is committed."""
        slab.release()
        if slab.capacity > self.capacity:
            self._remove(slab)
        else:
            self._free.append(slab)

    def trim(self, now: float) -> None:
        """Remove the slabs that were idle for `IDLE_S`; call it regularly."""
        if now - self._trimmed_at >= IDLE_S:
            for _ in range(count_idle(self._least_free)):
                self.evict()
            self._trimmed_at, self._least_free = now, len(self._free)

    def evict(self) -> bool:
        """Remove the slab that has been free for longest; return False if none is free."""
        if not self._free:
            return False
        self._remove(self._free.pop(0))
        self._least_free = min(self._least_free, len(self._free))
        return True

    def close(self) -> None:
        """Remove all free slabs."""
        while self.evict():
            pass

    def statistics(self) -> SlabStatistics:
        """Return the statistics at this moment."""
        existing, free = self._existing, len(self._free)
        return SlabStatistics(
            self.bound, existing, free, existing - free, self._created, self._removed, self._stalls
        )

    def _stall(self) -> None:
        """Count a stall once for each shortage."""
        self._stalls += not self._is_stalled
        self._is_stalled = True

    def _remove(self, slab: Slab) -> None:
        slab.unlink()
        self._existing -= 1
        self._removed += 1

    def _next_path(self) -> Path:
        return self.folder / f"{self.stream}-{self._number}"


def number_of(path: Path) -> int:
    """Return the number in a slab's name."""
    return int(path.name.rpartition("-")[2])
