"""Executors that stage pages and join files for a backfill. `PagePool` uses the cores of this machine.

An executor on other machines (a cluster, Ray) has to provide:

- The same files. Tickets name files in the store's folder: `PageTicket.path`, `JoinTicket.paths`, `before`
  and `into`. Workers elsewhere have that folder at the same path (a shared file system), or the executor
  copies staged files back before `stage` returns, and out before `join`. `history.staging` counts the rows
  of staged files on the next run, and `history.filing` removes them.
- Complete files. A staged file exists with all its rows or not at all (written, then renamed). The Parquet
  file of a join is on disk (fsync) before `join` returns, because its commit follows at once.
- Self-contained tickets. A page is in its ticket, compressed as received; a receipt is small. Both can be
  pickled, contain no credential, and need no feed, run folder or earlier ticket. Each may go to any worker
  and may run twice: the second run writes the same rows to the same file.
- The same version of mdstream on both sides, because both read the declarations in `mdstream.streams`.

Only `pool/worker_code.py` may import `workers`. A remote task uses `WorkerPool(0)`, which works in its
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol

from mdstream.config import BackfillSettings, usable_cores
from mdstream.handoff.page_ticket import JoinReceipt, JoinTicket, PageReceipt, PageTicket
from mdstream.pool.pool import WorkerPool, one_a_core
from mdstream.pool.worker_code import COMPILING, compile_kernels, warn_of_no_kernels

log = logging.getLogger(__name__)

_JOBS_PER_WORKER = 2
_TASK_TIMEOUT_S = 120.0
_REBUILD_S = 60.0
"""How long workers that die as they start (a machine short of memory) are started again."""


class PageExecutor(AbstractAsyncContextManager["PageExecutor"], Protocol):
    """Does the work of a backfill, `most_jobs` tickets at a time.

    A backfill enters it when there is something to do, and leaves it when everything is done or has failed.
    Entering may return before workers are ready; tickets wait for them.
    """

    most_jobs: int
    """Tickets that run at a time; each keeps a page, or a file's rows, in memory. Others wait."""

    async def stage(self, ticket: PageTicket) -> PageReceipt:
        """Decode a page and stage its rows.

        Raises `PoisonedBatchError` if the page killed its workers, and `NoWorkersError`, which ends the
        backfill.
        """

    async def join(self, ticket: JoinTicket) -> JoinReceipt:
        """Join staged files to one Parquet file of the store. Raises as `stage`."""


def make_executor(config: BackfillSettings) -> PageExecutor:
    """Return the executor that a backfill with these settings uses. Another one would be chosen here."""
    return PagePool(config.workers)


class PagePool:
    """The `PageExecutor` of this machine: `workers` pool processes (-1: one per core; 0: this one).

    The first use of a version of mdstream on a machine compiles the decoders first.
    """

    # Written by `__aenter__` only.
    _pool: WorkerPool
    _starting: asyncio.Future[None]

    def __init__(self, workers: int) -> None:
        self._workers = one_a_core(workers)
        if self._workers > (cores := usable_cores()):
            log.warning(
                "%d workers are more than the %d cores can run; unset backfill.workers to have one a core",
                self._workers,
                cores,
            )
        self.most_jobs = _JOBS_PER_WORKER * max(1, self._workers)
        self._slots = asyncio.Semaphore(self.most_jobs)

    async def __aenter__(self) -> PagePool:
        await _compile_decoders()
        self._pool = WorkerPool(self._workers, _TASK_TIMEOUT_S, rebuild_s=_REBUILD_S)
        self._starting = asyncio.ensure_future(self._pool.start(bars=False))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._starting.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):  # a ticket that waits for it raises it
            await self._starting
        await self._pool.close()

    async def stage(self, ticket: PageTicket) -> PageReceipt:
        """Do what `PageExecutor.stage` says."""
        async with self._slots:
            await asyncio.shield(self._starting)
            return await self._pool.stage(ticket)

    async def join(self, ticket: JoinTicket) -> JoinReceipt:
        """Do what `PageExecutor.join` says."""
        async with self._slots:
            await asyncio.shield(self._starting)
            return await self._pool.join(ticket)


async def _compile_decoders() -> None:
    """Compile the decoders unless that is done. If it fails, fall back to the fallback decoder."""
    try:
        compiling = compile_kernels()
        if compiling is None:
            return
        log.warning(COMPILING)
        try:
            _, output = await asyncio.to_thread(compiling.communicate)
        except asyncio.CancelledError:
            compiling.kill()
            raise
    except OSError as error:
        warn_of_no_kernels(error)
        return
    if compiling.returncode:
        warn_of_no_kernels(output)
