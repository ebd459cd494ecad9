"""A pool of workers.

    ticket ─► crew of processes ─► receipt
                 │ a worker died, or hung
                 └─► a new crew ─► the tickets that were running, once more, one after another

1. A crew breaks when one of its processes dies, as a `ProcessPoolExecutor` does. Then all are ended, and a
   new crew replaces them.
2. It is unknown which of the running tickets killed the worker. So each is a suspect and runs alone
   (`pool.suspects`). A ticket that breaks the pool alone has killed two workers: `PoisonedBatchError`.
3. A ticket that runs longer than the deadline counts as having killed its worker.
4. If no crew can start, not even a first one, the pool ends: every ticket fails at once with
   `NoWorkersError`.
5. `resize` changes the number of workers: it starts a crew of the new size beside the present one, and then
   gives it all tickets. The former crew finishes its own. Without a crew, tickets run in the owner's
   process, but never one that is a suspect.

The file is long because crews start, break and change in one place, where no ticket gets lost between them.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess as Process
from pathlib import Path
from typing import Any, TypeVar

from mdstream.config import usable_cores
from mdstream.errors import NoWorkersError, PoisonedBatchError
from mdstream.frames.builders import Builders
from mdstream.frames.direct_path import DirectPath, Targets
from mdstream.handoff.page_ticket import JoinReceipt, JoinTicket, PageReceipt, PageTicket
from mdstream.handoff.record_ticket import CompactTicket, RecordReceipt, RecordTicket
from mdstream.handoff.space import NO_ROOM
from mdstream.handoff.ticket import Receipt, Ticket
from mdstream.pool import forkserver
from mdstream.pool.crew import Crew
from mdstream.pool.suspects import Turns
from mdstream.pool.worker_code import load_boot
from mdstream.streams.spec import StreamSpec
from mdstream.system import clock, resources

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

SINGLE_THREADED = {
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
"""Environment of every worker: the processes are parallel, not their threads."""

_END_WAIT_S = 5.0
_START_ATTEMPTS = 3
_START_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_ROOM_S = 30.0
"""How long the start of a pool waits for room in shared memory."""
_IDLE_S = 0.05
"""How often a replaced crew is asked whether its tickets are done."""
_LOAD_S = 60.0
"""A fork server that needs longer to load its modules counts as hung."""

LOST = (BrokenExecutor, TimeoutError)
"""Errors for a worker that died, and for one that hangs."""


def one_a_core(wanted: int) -> int:
    """Return the number of workers for a setting if the pool has all cores: -1 is one for each core."""
    return wanted if wanted >= 0 else usable_cores()


def forkserver_modules(*modules: str) -> tuple[str, ...]:
    """Return what a fork server loads for processes that need `modules`, and for their workers."""
    return (*modules, load_boot().PRELOAD)


class WorkerPool:
    """Runs tickets on `size` processes, or in the calling process if `size` is 0.

    `resize` may change `size`, up to `most`. Without `kernels` workers do not load the compiled decoders.
    `on_change` is called with the ids of all processes whenever they change, and with that of their fork
    server, if it is the pool's own. A crew that cannot be replaced within `rebuild_s` and a few attempts
    ends the pool: every ticket then fails at once with `NoWorkersError`. An owner that no other process
    restarts should allow more time.
    """

    # Written only by the pool.
    size: int
    pids: list[int]
    """Process ids of the crew."""
    rebuilds: int
    """Number of crews that replaced others."""
    has_kernels: bool
    """Whether compiled kernels are loaded: in the workers, and in this process if it makes bars."""
    _crew: Crew | None
    _generation: int
    """Number of crews so far."""
    _former: dict[int, Crew]
    """Replaced crews that have not ended yet, by their generation."""
    _retiring: set[asyncio.Task[None]]
    """The tasks that end them."""
    _resizing: asyncio.Task[Any] | None
    """The task that calls `resize`."""
    _rebuilding: asyncio.Task[None] | None
    """The last replacement. There is one at a time; cancelling a ticket does not cancel it."""
    _ended_by: str
    """Why the pool has ended; empty while it has not."""
    _context: BaseContext
    _has_forkserver: bool

    def __init__(
        self,
        size: int,
        timeout_s: float,
        kernels: bool = True,
        on_change: Callable[[list[int], int | None], None] = lambda pids, forkserver_pid: None,
        rebuild_s: float = 0.0,
        most: int = 0,
    ) -> None:
        self.size = size
        self.most = max(size, most)
        self.rebuilds = 0
        self.pids = []
        self.has_kernels = False
        self._boot = load_boot()
        self._timeout_s = timeout_s
        self._kernels = kernels
        self._on_change = on_change
        self._rebuild_s = rebuild_s
        # A single worker is spawned, unless a fork server runs already.
        self._is_forked = kernels and (self.most > 1 or forkserver.is_running())
        self._has_forkserver = False
        self._context = multiprocessing.get_context("spawn")
        self._turns = Turns()
        self._crew = self._rebuilding = self._resizing = None
        self._former, self._retiring = {}, set()
        self._generation = 0
        self._ended_by = ""

    @property
    def busy(self) -> int:
        """Tickets that workers have; callers must keep it near `size`."""
        return self._turns.busy

    @property
    def builders(self) -> Builders:
        """What builds bars and order books, for a feed."""
        builders: Builders = self._boot
        return builders

    def make_direct(
        self, run: Path, spec: StreamSpec, targets: Targets, kernels: bool = True
    ) -> DirectPath | None:
        """Return the direct path of a stream, for an owner that decodes; None if there is none."""
        if not self.has_kernels:
            return None
        made: DirectPath | None = self._boot.make_direct(run, spec, targets, kernels)
        return made

    async def start(self, bars: bool = True) -> None:
        """Start the processes, and wait until each is ready, and this one can make `bars` if requested.

        If the kernels are not compiled yet, `has_kernels` stays False, and all do without.

        Processes that die as they start are started again, as later on. Raises `NoWorkersError` if that
        does not help.
        """
        if bars or not self.size:
            # Before the workers start, so that they have kernels if this process has.
            self.has_kernels = await asyncio.to_thread(self._boot.load_kernels)
        if self.most:
            os.environ.update(SINGLE_THREADED)
        if self.most and self._is_forked:
            self._context = forkserver.take(*forkserver_modules())
            self._has_forkserver = True
        if self.size:
            await self._first_crew()

    async def use_kernels(self) -> bool:
        """Load the kernels, now that they are compiled; return whether they are loaded.

        Meanwhile the present crew goes on. A new one replaces it as in `resize`.
        """
        if not self.has_kernels and await asyncio.to_thread(self._boot.load_kernels):
            while self._resizing is not None:
                await asyncio.sleep(_IDLE_S)
            if self.size:
                await self.resize(self.size)
            self.has_kernels = True
        return self.has_kernels

    async def resize(self, size: int) -> None:
        """Give tickets to `size` workers from now on; 0: run them here. Calls wait for each other.

        Until the workers are ready, tickets go where they went before. If they cannot start, nothing
        changes, and this raises `BrokenExecutor`, `EOFError`, `OSError` or `NoWorkersError`.
        """
        while self._resizing is not None:
            await asyncio.sleep(_IDLE_S)
        self._resizing = asyncio.current_task()
        try:
            crew = await self._start_beside(size) if size else None
            try:
                while not self._may_change(size):
                    await self._turns.change()
            except BaseException:
                if crew is not None:
                    await self._end(crew)
                raise
            self._change_crew(crew)
        finally:
            self._resizing = None

    def _change_crew(self, crew: Crew | None) -> None:
        """Make `crew` the one that gets tickets, and end the former one once it has no more."""
        former, generation = self._crew, self._generation
        self._crew, self.size = crew, crew.size if crew is not None else 0
        self._generation += 1
        self.pids = crew.pids if crew is not None else []
        if former is not None:
            self._former[generation] = former
            retiring = asyncio.get_running_loop().create_task(self._retire(generation))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
        self._report()

    def _may_change(self, size: int) -> bool:
        """Return whether no ticket hinders a change of crews, and of a suspect none remains without one."""
        if self._rebuilding is not None and not self._rebuilding.done():
            return False
        return bool(size) or self._turns.are_over

    async def _start_beside(self, size: int) -> Crew:
        """Return a crew of `size` that is ready, beside the present one."""
        crew = self._make_crew(size)
        try:
            with forkserver.kill_after(_LOAD_S):
                await crew.start()
            self._report(crew)
            async with clock.timeout(_LOAD_S):
                await crew.ready()
        except BaseException:
            await self._end(crew)
            self._report()
            raise
        return crew

    async def _retire(self, generation: int) -> None:
        """End a replaced crew once its tickets are done."""
        crew = self._former[generation]
        while not crew.is_idle:
            await asyncio.sleep(_IDLE_S)
        await self._end(crew, _END_WAIT_S)
        self._former.pop(generation, None)
        self._report()

    async def run(self, ticket: Ticket) -> Receipt:
        """Run `ticket` in a worker.

        Raises `PoisonedBatchError` if it killed two workers, and `NoWorkersError` if there are none.
        """
        return await self._do(self._boot.run, ticket, f"batch {ticket.sequence}")

    async def stage(self, ticket: PageTicket) -> PageReceipt:
        """Stage a page of history in a worker; raises as `run`."""
        return await self._do(self._boot.stage, ticket, f"page {Path(ticket.path).name}")

    async def join(self, ticket: JoinTicket) -> JoinReceipt:
        """Join staged files to one of the store in a worker; raises as `run`."""
        return await self._do(self._boot.join, ticket, f"file {Path(ticket.into).name}")

    async def record(self, ticket: RecordTicket) -> RecordReceipt:
        """Add rows of a frame to its table in a worker; raises as `run`, and `StoreError`."""
        return await self._do(self._boot.record, ticket, f"rows of {ticket.frame}")

    async def find_recorded(self, ticket: RecordTicket) -> RecordReceipt:
        """Return how far a frame is recorded in its table, from a worker; raises as `record`."""
        return await self._do(self._boot.find_recorded, ticket, f"rows of {ticket.frame}")

    async def compact(self, ticket: CompactTicket) -> int:
        """Merge a table's small files in a worker; raises as `record`."""
        return await self._do(self._boot.compact, ticket, f"files of {Path(ticket.table).name}")

    async def compress(self, segment: Path) -> None:
        """Compress a segment of a journal in a worker; raises as `run`, and `OSError`."""
        if not self.size:
            await asyncio.to_thread(self._boot.compress, segment)
        else:
            await self._do(self._boot.compress, segment, segment.name)

    async def _do(self, job: Callable[[T], R], ticket: T, name: str) -> R:
        """Run a ticket; once more, alone, if its worker dies. `name` is for log lines."""
        if not self.size:
            return job(ticket)
        turns = self._turns
        await turns.enter()
        try:
            generation = await self._find_crew()
            if not self.size:  # since this ticket waited
                return job(ticket)
            receipt: R = await self._submit(job, ticket)
            return receipt
        except LOST as error:
            log.warning("%s: its worker %s (1 of 2)", name, _what(error))
            turns.accuse()
        finally:
            turns.leave()
        try:
            await self._rebuild(generation)
            return await self._do_alone(job, ticket, name)
        finally:
            turns.clear()

    async def _do_alone(self, job: Callable[[T], R], ticket: T, name: str) -> R:
        await self._turns.enter_alone()
        try:
            generation = await self._find_crew()
            receipt: R = await self._submit(job, ticket)
            return receipt
        except LOST as error:
            log.warning("%s: its worker %s (2 of 2)", name, _what(error))
            await self._rebuild(generation)
            raise PoisonedBatchError(f"its worker {_what(error)}, twice") from error
        finally:
            self._turns.leave()

    async def rebuild_partials(self, run: str, stream: str, rows: Mapping[str, int]) -> bytes:
        """Return the partials of the first `rows` rows of their frames, for the successor of a feed."""
        if not self.size:
            return await asyncio.to_thread(self._boot.rebuild_partials, run, stream, rows)
        partials: bytes = await self._submit(self._boot.rebuild_partials, run, stream, rows)
        return partials

    async def close(self) -> None:
        """End the processes: idle ones at once, others after their ticket, or by force."""
        self._ended_by = "the pool is closed"
        changes = [task for task in (self._rebuilding, self._resizing, *self._retiring) if task is not None]
        for task in changes:
            task.cancel()
        await asyncio.gather(*changes, return_exceptions=True)
        crew, self._crew = self._crew, None
        for each in filter(None, (crew, *self._former.values())):
            await self._end(each, _END_WAIT_S)
        self._former.clear()
        if self._has_forkserver:
            self._has_forkserver = False
            await asyncio.to_thread(forkserver.leave)

    # -- the crew

    async def _first_crew(self) -> None:
        """Start the first crew. If there is no room for its semaphores, wait `_ROOM_S` for some.

        Raises `SharedMemoryError` if there can be no semaphores, and `ConfigError` if too few files may be
        open.
        """
        started, reported = time.monotonic(), False
        while True:
            try:
                return await self._start_crew()
            except OSError as error:
                if resources.is_too_many_files(error):
                    raise resources.too_many_files() from error
                if error.errno not in NO_ROOM or time.monotonic() - started > _ROOM_S:
                    resources.check_semaphores()
                    raise
                if not reported:
                    log.warning("%s; waiting up to %.0f s", resources.no_semaphores(error), _ROOM_S)
                    reported = True
            await asyncio.sleep(_START_PAUSE_S)

    async def _new_crew(self) -> None:
        """Start a crew and wait until it is ready."""
        self._crew = self._make_crew(self.size)
        self._generation += 1
        await self._crew.start()
        self._report()
        self.pids = await self._crew.ready()

    def _make_crew(self, size: int) -> Crew:
        start = self._boot.start if self._kernels else self._boot.start_plain
        return Crew(size, start, self._boot.serve, self._context)

    def _report(self, *others: Crew) -> None:
        """Report the processes of all crews, and of `others`."""
        crews = filter(None, (self._crew, *self._former.values(), *others))
        pids = [p.pid for crew in crews for p in crew.processes if p.pid is not None]
        self._on_change(pids, forkserver.pid() if self._is_forked else None)

    async def _submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._ended_by or self._crew is None:
            raise NoWorkersError(self._ended_by or "the pool has not started")
        async with clock.timeout(self._timeout_s):
            return await self._crew.do(function, *arguments)

    async def _rebuild(self, broken: int) -> None:
        """Wait until the crew of generation `broken` is replaced; the first caller starts that.

        Raises `NoWorkersError` if that fails, or the pool is closed.
        """
        if (former := self._former.get(broken)) is not None:  # a hung worker may still write
            await self._end(former)
        if self._generation == broken and not self._is_rebuilding and not self._ended_by:
            self._rebuilding = asyncio.get_running_loop().create_task(self._replace_crew())
        await self._find_crew()

    @property
    def _is_rebuilding(self) -> bool:
        return self._rebuilding is not None and not self._rebuilding.done()

    async def _find_crew(self) -> int:
        """Wait for a running replacement; return the crew's generation.

        Raises `NoWorkersError` if the replacement failed.
        """
        if (rebuilding := self._rebuilding) is not None and self._is_rebuilding:
            await asyncio.wait([rebuilding])  # a ticket that is cancelled here does not cancel it
            if rebuilding.cancelled():
                raise NoWorkersError(self._ended_by)
            rebuilding.result()
        return self._generation

    async def _replace_crew(self) -> None:
        started = time.monotonic()
        await self._start_crew(replaces=True)
        log.warning("pool rebuilt in %.2f s", time.monotonic() - started)

    async def _start_crew(self, replaces: bool = False) -> None:
        """Start a crew, and another one if its processes die as they start.

        With `replaces`, end the present one first. Raises `NoWorkersError` if no crew starts.
        """
        started, attempts = time.monotonic(), 0
        while True:
            if replaces:
                await self._end_crew()
                self.rebuilds += 1
            attempts += 1
            try:
                if replaces and self._has_forkserver:
                    # In a thread: a new server loads for seconds, and the owner's loop must not stop.
                    await asyncio.to_thread(forkserver.wait_until_loaded, self._context, _LOAD_S)
                await self._new_crew()
            except (BrokenExecutor, EOFError, OSError) as error:
                # A connection ends, or a file with it, if the fork server is dying: the next attempt starts
                # a new one. Any other error of the system is the caller's at the first start.
                if not replaces and isinstance(error, OSError) and not isinstance(error, ConnectionError):
                    raise
                log.warning("a worker died while it started: %r", error)
                waited = time.monotonic() - started
                if attempts >= _START_ATTEMPTS and waited >= self._rebuild_s:
                    self._ended_by = f"workers die as they start, {attempts} times in {waited:.0f} s"
                    raise NoWorkersError(self._ended_by) from error
                await asyncio.sleep(min(attempts * _START_PAUSE_S, _LONGEST_PAUSE_S))
                replaces = True
            else:
                return

    async def _end_crew(self) -> None:
        if self._crew is not None:
            await self._end(self._crew)

    async def _end(self, crew: Crew, timeout_s: float = 0.0) -> None:
        crew.hang_up()
        await asyncio.to_thread(_end_processes, crew.processes, timeout_s)


def _what(error: BaseException) -> str:
    return "hung" if isinstance(error, TimeoutError) else "died"


def _end_processes(processes: set[Process], timeout_s: float) -> None:
    """Wait for `processes` to end; kill those that have not ended within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join(_END_WAIT_S)
