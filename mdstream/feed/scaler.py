"""Change the number of a feed's workers as `feed.scaling` decides, and say so.

heartbeat ─► load ─► policy ─► pool.resize, in the background ─► log line, event, metrics
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import replace

from mdstream.errors import NoWorkersError
from mdstream.feed.pipeline import Pipeline
from mdstream.feed.scaling import Change, Load, Scaling, Work, describe
from mdstream.pool.pool import WorkerPool
from mdstream.telemetry.events import EventKind, RunEvent
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

_AGAIN_S = 60.0
"""Pause after workers could not start."""


class Scaler:
    """Keeps the workers of one feed between none and `pool.most`. Used in the feed's loop."""

    # Written only here.
    _changing: asyncio.Task[None] | None
    """The last change; one at a time."""
    _paused_until: float
    """On the monotonic clock, as all times here."""
    _before: tuple[float, Work]
    """When the last heartbeat was, and what had been decoded."""

    def __init__(
        self, pool: WorkerPool, pipeline: Pipeline, state: FeedState, report: Callable[[RunEvent], None]
    ) -> None:
        self._pool = pool
        self._pipeline = pipeline
        self._state = state
        self._report = report
        self._policy = Scaling(pool.most)
        self._changing, self._paused_until = None, 0.0
        self._before = time.monotonic(), replace(pipeline.decoded)

    def heartbeat(self) -> None:
        """Measure the load, and begin a change that is due."""
        now = time.monotonic()
        load = self._measure(now)
        if now < self._paused_until or (self._changing is not None and not self._changing.done()):
            return
        if change := self._policy.decide(load, self._pool.size, now):
            self._changing = asyncio.get_running_loop().create_task(self._change(change))

    def _measure(self, now: float) -> Load:
        (then, before), done = self._before, replace(self._pipeline.decoded)
        self._before = now, done
        seconds = max(0.01, now - then)
        return Load(
            decoding=(done.cpu_ns - before.cpu_ns) / 1e9 / seconds,
            batches_per_s=(done.batches - before.batches) / seconds,
            lag_s=self._pipeline.lag_s,
            queued=self._pipeline.queued,
        )

    async def _change(self, change: Change) -> None:
        former = self._pool.size
        try:
            await self._pool.resize(change.workers)
        except (BrokenExecutor, EOFError, NoWorkersError, OSError) as error:
            self._paused_until = time.monotonic() + _AGAIN_S
            log.warning(
                "cannot start %s (%r): going on with %s, trying again in %.0f s",
                describe(change.workers),
                error,
                describe(former),
                _AGAIN_S,
            )
            return
        finally:
            self._policy.restart()
        self._state["pool_size"] = change.workers
        self._state["pool_changes"] += 1
        text = f"{describe(change.workers)} ({change.reason})"
        log.info("%s", text)
        fields = {"workers": change.workers, "before": former}
        self._report(RunEvent(EventKind.WORKERS, text, fields=fields))
