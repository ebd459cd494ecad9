"""The pool of workers of one feed: the only place that knows `workers`.

A crew of processes breaks for good when one of them dies, as a `ProcessPoolExecutor` does. Then all are
ended, a new crew takes its place, and the batches that were under way are done again, for their slabs are
still there. Which of them killed the worker cannot be seen; so each is a suspect and runs alone.
One that breaks the pool alone has killed two workers, and is given up (`PoisonedBatchError`).

A batch that keeps its worker longer than the deadline counts as having killed it.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import asynccontextmanager
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess as Process
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mdstream.config import usable_cores
from mdstream.errors import ConfigError, PoisonedBatchError, WorkerError
from mdstream.frames.bar_builder import MakeBars
from mdstream.handoff.page_ticket import JoinReceipt, JoinTicket, PageReceipt, PageTicket
from mdstream.handoff.record_ticket import CompactTicket, RecordReceipt, RecordTicket
from mdstream.handoff.ticket import Receipt, Ticket
from mdstream.interrupts import block_interrupts
from mdstream.pool import forkserver
from mdstream.pool.crew import Crew

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

SINGLE_THREADED = {
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
"""Environment of every worker: parallelism comes from the processes."""

_END_WAIT_S = 5.0
_START_ATTEMPTS = 3
_START_PAUSE_S = 0.2


def _workers() -> ModuleType:
    """The `workers` package, once it is sure that it is ours."""
    import workers

    if getattr(workers, "OWNER", None) != "mdstream":
        raise ConfigError(
            f"`import workers` finds {workers.__file__ or workers.__path__}, which is not "
            "mdstream's: rename that file or folder, or start mdstream from another directory"
        )
    return workers


def are_kernels_compiled() -> bool:
    """Whether the workers' kernels are on this machine's disk. Raises OSError where they cannot be kept."""
    return bool(_boot().is_compiled())


def _boot() -> ModuleType:
    _workers()
    from workers import boot

    return boot


COMPILING = "compiling the decoders for this machine: about half a minute, once"
"""What is logged meanwhile. With an empty cache it took 33 s of CPU time on a vCPU of 2026 (AMD EPYC)."""


def compile_kernels() -> subprocess.Popen[str] | None:
    """A process that compiles the workers' kernels; None if that was done before on this machine.

    Where they cannot be kept on disk it raises OSError, or the process ends with a code other than 0 and
    says why on its standard error.
    """
    if are_kernels_compiled():
        return None
    with block_interrupts():
        return subprocess.Popen([sys.executable, "-m", "workers.warm"], stderr=subprocess.PIPE, text=True)


def do_without_kernels() -> None:
    """Have all workers that start from now on do without compiled decoders."""
    os.environ[_workers().UNKEPT] = "1"


def one_a_core(wanted: int) -> int:
    """How many workers a setting means, for a pool that has the machine to itself: -1 is one a core."""
    return wanted if wanted >= 0 else usable_cores()


def forkserver_modules(*modules: str) -> tuple[str, ...]:
    """What the fork server loads of processes that need `modules`, and of their workers."""
    return (*modules, _boot().PRELOAD)


def load_early(size: int) -> None:
    """For a process that soon starts a pool of `size`: what its workers are forked from loads already."""
    if size > 1 and are_kernels_compiled():
        os.environ.update(SINGLE_THREADED)
        with block_interrupts():
            forkserver.begin(*forkserver_modules())


class WorkerPool:
    """Runs tickets on `size` processes, or here and now if `size` is 0. Without `kernels`, they do not load
    the compiled decoders. `started` is told the process ids of each crew, before it can work, and that of
    the process it is forked from, if there is one.

    `busy` tells how many tickets are with the workers; callers keep it near `size` themselves.
    """

    # The mutable state: the crew and its generation; how many tickets run in it, and whether
    # one of them must be alone. `_turn` guards the latter.

    def __init__(
        self,
        size: int,
        timeout_s: float,
        kernels: bool = True,
        started: Callable[[list[int], int | None], None] = lambda pids, forkserver_pid: None,
    ) -> None:
        boot = _boot()
        self.size = size
        self.rebuilds = 0
        self.busy = 0
        self._job: Callable[[Ticket], Receipt] = boot.run
        self._rebuild_partials: Callable[[str, str, Mapping[str, int]], bytes] = boot.rebuild_partials
        self.make_bars: MakeBars = boot.make_bars
        self._boot = boot
        self._started = started
        self._timeout_s = timeout_s
        self._kernels = kernels
        # A single worker is spawned, unless a fork server runs already.
        self._is_forked = kernels and (size > 1 or forkserver.pid() is not None)
        self._has_forkserver = False
        self._context: BaseContext = multiprocessing.get_context("spawn")
        self._generation = 0
        self._crew: Crew | None = None
        self.pids: list[int] = []
        self._rebuilding = asyncio.Lock()
        self._turn = asyncio.Condition()
        self._alone = False
        self._suspects = 0
        self._dead = ""

    async def start(self, bars: bool = True) -> None:
        """Start the processes and wait until each can work; and this one too, if it will make `bars`."""
        ready = [asyncio.to_thread(self._boot.prepare_bars)] if bars else []
        if self.size:
            os.environ.update(SINGLE_THREADED)
            if self._is_forked:
                self._context = forkserver.take(*forkserver_modules())
                self._has_forkserver = True
            await asyncio.gather(self._new_crew(), *ready)
        else:
            await asyncio.gather(asyncio.to_thread(self._boot.warm), *ready)

    async def run(self, ticket: Ticket) -> Receipt:
        """Have a worker do `ticket`. Raises `PoisonedBatchError` when that killed two of them, and
        `WorkerError` when no worker can be had at all.
        """
        return await self._do(self._job, ticket, f"batch {ticket.sequence}")

    async def stage(self, ticket: PageTicket) -> PageReceipt:
        """Have a worker stage a page of history; raises as `run`."""
        return await self._do(self._boot.stage, ticket, f"page {Path(ticket.path).name}")

    async def join(self, ticket: JoinTicket) -> JoinReceipt:
        """Have a worker join staged files to one of the store; raises as `run`."""
        return await self._do(self._boot.join, ticket, f"file {Path(ticket.into).name}")

    async def record(self, ticket: RecordTicket) -> RecordReceipt:
        """Have a worker bring rows of a frame into its table; raises as `run`, and `StoreError`."""
        return await self._do(self._boot.record, ticket, f"rows of {ticket.frame}")

    async def find_recorded(self, ticket: RecordTicket) -> int:
        """Have a worker look how far a frame is recorded; raises as `record`."""
        return await self._do(self._boot.find_recorded, ticket, f"rows of {ticket.frame}")

    async def compact(self, ticket: CompactTicket) -> int:
        """Have a worker make a table's small files large ones; raises as `record`."""
        return await self._do(self._boot.compact, ticket, f"files of {Path(ticket.table).name}")

    async def compress(self, segment: Path) -> None:
        """Have a worker compress a segment of a journal; raises as `run`, and `OSError`."""
        if not self.size:
            await asyncio.to_thread(self._boot.compress, segment)
        else:
            await self._do(self._boot.compress, segment, segment.name)

    async def _do(self, job: Callable[[T], R], ticket: T, name: str) -> R:
        if not self.size:
            return job(ticket)
        strikes = 0
        while True:
            async with self._place(suspect=strikes > 0):
                generation = self._generation
                try:
                    receipt: R = await self._submit(job, ticket)
                    return receipt
                except (BrokenExecutor, TimeoutError) as error:
                    hung = isinstance(error, TimeoutError)
                    strikes += 1
                    if strikes == 1:
                        self._suspects += 1
                    what = "hung" if hung else "died"
                    log.warning("%s: its worker %s (%d of 2)", name, what, strikes)
                    await self._rebuild(generation)
            if strikes == 2:
                raise PoisonedBatchError(f"its worker {what}, twice")

    async def rebuild_partials(self, run: str, stream: str, rows: Mapping[str, int]) -> bytes:
        """Runs of the first `rows` trades, and quotes, in their frames, for a feed that starts over."""
        if not self.size:
            return await asyncio.to_thread(self._rebuild_partials, run, stream, rows)
        partials: bytes = await self._submit(self._rebuild_partials, run, stream, rows)
        return partials

    async def close(self) -> None:
        """End the processes: idle ones at once, a working one when its ticket is done, or killed."""
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.hang_up()
            await asyncio.to_thread(_end, crew.processes, _END_WAIT_S)
        if self._has_forkserver:
            self._has_forkserver = False
            await asyncio.to_thread(forkserver.leave)

    # -- the crew

    async def _new_crew(self) -> None:
        """Start a crew and wait until all of it can work."""
        start = self._boot.start if self._kernels else self._boot.start_plain
        self._crew = Crew(self.size, start, self._boot.serve, self._context)
        pids = [process.pid for process in self._crew.processes if process.pid is not None]
        self._started(pids, forkserver.pid() if self._is_forked else None)
        self.pids = await self._crew.ready()

    async def _submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._crew is None or self._dead:
            raise WorkerError(self._dead or "the pool is closed")
        async with asyncio.timeout(self._timeout_s):
            return await self._crew.do(function, *arguments)

    async def _rebuild(self, broken: int) -> None:
        """Replace the crew of generation `broken`; only the first to come does it."""
        async with self._rebuilding:
            if self._generation != broken or self._crew is None:
                return
            started = time.monotonic()
            for attempt in range(_START_ATTEMPTS):
                self._crew.hang_up()
                await asyncio.to_thread(_end, self._crew.processes, 0.0)
                self._generation += 1
                self.rebuilds += 1
                try:
                    await self._new_crew()
                except (BrokenExecutor, EOFError, OSError) as error:
                    # The last two: its fork server is dying just now, and the next attempt has a new one.
                    log.warning("a worker died while it started: %r", error)
                    await asyncio.sleep(attempt * _START_PAUSE_S)
                    continue
                log.warning("pool rebuilt in %.2f s", time.monotonic() - started)
                return
            self._dead = f"workers die as they start, {_START_ATTEMPTS} times in a row"
            raise WorkerError(self._dead)

    # -- who runs beside whom

    @asynccontextmanager
    async def _place(self, suspect: bool) -> AsyncIterator[None]:
        """A place in the pool: beside others, or, for a suspect, alone."""
        async with self._turn:
            if suspect:
                await self._turn.wait_for(lambda: self.busy == 0)
                self._alone = True
            else:
                await self._turn.wait_for(lambda: not self._alone and not self._suspects)
            self.busy += 1
        try:
            yield
        finally:
            async with self._turn:
                self.busy -= 1
                if suspect:
                    self._alone = False
                    self._suspects -= 1
                self._turn.notify_all()


def _end(processes: set[Process], timeout_s: float) -> None:
    """Wait for `processes` to end; by force for those that have not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join(_END_WAIT_S)
