"""The workers of a backfill: they start while the first requests go out, and have few jobs waiting each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import TracebackType

from mdstream.handoff.page_ticket import JoinReceipt, JoinTicket, PageReceipt, PageTicket
from mdstream.pool.pool import WorkerPool, compile_kernels, do_without_kernels

log = logging.getLogger(__name__)

_JOBS_A_WORKER = 2
_TASK_TIMEOUT_S = 120.0


class PagePool:
    """A pool that is being started. Whoever asks it for something waits until it can work."""

    def __init__(self, workers: int) -> None:
        self._pool = WorkerPool(workers, _TASK_TIMEOUT_S)
        self.most_jobs = _JOBS_A_WORKER * max(1, workers)
        """More are not under way at a time: each keeps a page, or a file's rows, in memory."""
        self._places = asyncio.Semaphore(self.most_jobs)

    async def __aenter__(self) -> PagePool:
        self._starting = asyncio.ensure_future(self._pool.start(bars=False))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._starting.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):  # who waits for it has it
            await self._starting
        await self._pool.close()

    async def stage(self, ticket: PageTicket) -> PageReceipt:
        """As `WorkerPool.stage`."""
        async with self._places:
            await asyncio.shield(self._starting)
            return await self._pool.stage(ticket)

    async def join(self, ticket: JoinTicket) -> JoinReceipt:
        """As `WorkerPool.join`."""
        async with self._places:
            await asyncio.shield(self._starting)
            return await self._pool.join(ticket)


async def compile_decoders() -> None:
    """The first use of a version on a machine compiles the decoders."""
    try:
        compiling = compile_kernels()
        if compiling is None:
            return
        log.warning("compiling the decoders for this machine: half a minute, once")
        try:
            _, told = await asyncio.to_thread(compiling.communicate)
        except asyncio.CancelledError:
            compiling.kill()
            raise
        why = told.strip().rpartition("\n")[2] if compiling.returncode else ""
    except OSError as error:
        why = f"they cannot be kept on disk: {error.strerror or error}"
    if why:
        log.warning("no compiled decoders: %s; the library decodes, much slower", why)
        do_without_kernels()
