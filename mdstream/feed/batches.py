"""The batches of one feed that are not committed yet, in the order of the stream.

filling ─► sealed ─► working ─► (committed, in order)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from mdstream.handoff.slab import Slab
from mdstream.handoff.ticket import BodyContents, Receipt
from mdstream.system.clock import Moment, Span

_LATE_NS = 500_000_000


@dataclass(slots=True)
class Batch:
    """A slab from filling to commit, and the callers waiting for its REST bodies."""

    slab: Slab
    sequence: int
    span: Span
    waiting: dict[int, asyncio.Future[BodyContents]] = field(default_factory=dict)
    is_recovered: bool = False
    """Whether a killed predecessor left it, and may have committed a part of it."""
    result: Receipt | Exception | None = None
    task: asyncio.Task[None] | None = None


class Batches:
    """Written by the pipeline alone."""

    filling: Batch | None
    sealed: deque[Batch]
    """Batches that wait for a worker."""
    working: deque[Batch]
    """Batches that workers have."""
    next_sequence: int
    are_done: asyncio.Event
    """Set while there are none."""

    def __init__(self, next_sequence: int) -> None:
        self.filling = None
        self.sealed, self.working = deque(), deque()
        self.next_sequence = next_sequence
        self.are_done = asyncio.Event()
        self.are_done.set()

    def begin(self, slab: Slab) -> Batch:
        """Begin a batch in a free slab."""
        slab.begin(self.next_sequence)
        batch = self.filling = Batch(slab, self.next_sequence, Span.at(Moment.now()))
        self.next_sequence += 1
        self.are_done.clear()
        return batch

    def adopt(self, slab: Slab) -> Batch:
        """Take a batch that a killed predecessor left, as one to be sealed."""
        self.next_sequence = slab.sequence + 1
        self.are_done.clear()
        return Batch(slab, slab.sequence, Span.at(Moment.now()), is_recovered=True)

    def note_done(self) -> bool:
        """Note if there are no batches left; return whether that is so."""
        if is_done := not (self.working or self.sealed or self.filling):
            self.are_done.set()
        return is_done

    @property
    def count(self) -> int:
        """Batches that are sealed and not committed."""
        return len(self.working) + len(self.sealed)

    @property
    def are_late(self) -> bool:
        """Whether some wait for a worker, or for the result of a slow one."""
        working, now = self.working, time.monotonic_ns()
        return bool(self.sealed or (working and now - working[0].span.submitted.monotonic > _LATE_NS))

    @property
    def lag_s(self) -> float:
        """Age of the oldest one, without the one that is being filled."""
        waiting = [*islice(self.working, 1), *islice(self.sealed, 1)]
        return time.monotonic() - waiting[0].span.begun.monotonic / 1e9 if waiting else 0.0
