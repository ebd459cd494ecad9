"""The switch of a running stream from the fallback decoder to the compiled kernels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mdstream.feed.pipeline import Pipeline
from mdstream.pool.pool import WorkerPool
from mdstream.telemetry.events import EventKind, RunEvent

log = logging.getLogger(__name__)


class KernelSwitch:
    """Loads the kernels beside the stream, which then uses them from its next batch on.

    Both decoders make the same rows, so nobody notices but by the speed. Used only in the feed's loop.
    """

    # Written only here.
    _task: asyncio.Task[None] | None

    def __init__(self, pool: WorkerPool, pipeline: Pipeline, report: Callable[[RunEvent], None]) -> None:
        self._pool = pool
        self._pipeline = pipeline
        self._report = report
        self._task = None

    def begin(self) -> None:
        """Switch as soon as the kernels are loaded, and notify the supervisor."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._switch())

    async def _switch(self) -> None:
        try:
            if not await self._pool.use_kernels():
                raise OSError("they are not on disk")
        except Exception as error:
            log.error("the compiled decoders cannot be loaded, so the fallback decoder goes on: %r", error)
            return
        self._pipeline.use_kernels()
        self._report(RunEvent(EventKind.KERNELS, "compiled decoders in use"))

    async def end(self) -> None:
        """Give up a switch that is not done, because the stream ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
