"""The processes of a pool, one generation of them.

    do() ─► packet ─► whichever process waits longest ─► packet ─► result

A `ProcessPoolExecutor` starts and watches the processes. With its `submit`, two more threads would take the
GIL for every ticket, and the loop would stop for a third of a millisecond. So each process gets one endless
task, `serve`, and each ticket is a packet (`handoff.packets`), which costs some 20 µs. A thread starts the
processes, so that the loop goes on meanwhile.

When a process dies, the executor and all its tasks break, and every running ticket fails with
`BrokenExecutor`, as with `submit`.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess as Process
from typing import Any

from mdstream.handoff import packets
from mdstream.pool import ipc_names
from mdstream.system import children


class Crew:
    """`size` processes; each calls `initializer(end)`, and then `serve()`, which never returns.

    `start` starts them, `ready` waits for them, `hang_up` ends them.

    `context` starts them; it must not fork this process, which would copy a running loop. `serve` sends
    `(packets.READY, True, pid)`, and then, for each `(number, function, arguments)`, `(number, True,
    result)` or `(number, False, exception)`.
    """

    # Written only by the crew, in the owner's loop.
    processes: set[Process]
    _executor: ProcessPoolExecutor | None
    _waiting: dict[int, asyncio.Future[Any]]
    """Number of a ticket → the caller's future."""
    _unsent: deque[tuple[int, Callable[..., Any], tuple[Any, ...]]]
    """Tickets for which the socket had no room; at most one for each caller."""
    pids: list[int]
    """Process ids of those that are ready."""
    _ready: asyncio.Future[None]
    """Done when all are ready, or with the error that broke the crew."""
    _broken: BaseException | None
    """The error that broke the crew."""

    def __init__(
        self,
        size: int,
        initializer: Callable[[packets.End], None],
        serve: Callable[[], None],
        context: BaseContext,
    ) -> None:
        self.size = size
        self._initializer, self._serve, self._context = initializer, serve, context
        self._loop = asyncio.get_running_loop()
        self._end, self._theirs = packets.make_pair()
        self._numbers = itertools.count(packets.READY + 1)
        self.processes = set()
        self._executor = None
        self._waiting = {}
        self._unsent = deque()
        self.pids = []
        self._ready = self._loop.create_future()
        self._broken = None

    async def start(self) -> None:
        """Start the processes. Raises OSError if there is no room for semaphores, or if one cannot start.

        A call that is cancelled ends only when they have started, so that `processes` has all of them.
        """
        starting = asyncio.ensure_future(asyncio.to_thread(self._start_processes))
        try:
            tasks = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            if not starting.cancelled() and starting.exception() is None:
                self._watch(starting.result())
            raise
        except BaseException:
            self._end.close()
            raise
        self._watch(tasks)

    def _start_processes(self) -> list[Future[None]]:
        """Start the processes, in a thread; return their endless tasks."""
        with children.protect_start(), children.without_script(), ipc_names.claim_names():
            others = set(multiprocessing.active_children())
            executor = None
            try:
                executor = ProcessPoolExecutor(self.size, self._context, self._initializer, (self._theirs,))
                tasks = [executor.submit(self._serve) for _ in range(self.size)]
                # The executor watches the processes that it has when it gets a task, before it starts one
                # for it. Without another task, it would not notice the death of the last process.
                executor.submit(os.getpid)
            except BaseException:  # no room for semaphores, or a process died while it started
                if executor is not None:
                    executor.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                self._theirs.close()  # the processes have copies; without them that side is closed
            self.processes = set(multiprocessing.active_children()) - others
        self._executor = executor
        return tasks

    def _watch(self, tasks: list[Future[None]]) -> None:
        """Listen to the processes; if `hang_up` was called before they had started, end them."""
        if self._end.is_closed:
            self._shut_down()
            return
        for task in tasks:
            asyncio.wrap_future(task).add_done_callback(self._on_task_end)
        self._loop.add_reader(self._end.bell, self._take)

    @property
    def is_idle(self) -> bool:
        """Whether no caller waits for a ticket."""
        return not self._waiting

    async def ready(self) -> list[int]:
        """Wait until every process is ready; return their ids. Raises `BrokenExecutor` if one dies."""
        await self._ready
        return sorted(self.pids)

    async def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function` in one of the processes. Raises its exceptions, and `BrokenExecutor`."""
        if self._broken is not None:
            raise BrokenExecutor("the pool is broken") from self._broken
        number = next(self._numbers)
        future = self._waiting[number] = self._loop.create_future()
        try:
            self._unsent.append((number, function, arguments))
            if len(self._unsent) == 1:
                self._send()
            return await future
        finally:
            del self._waiting[number]

    def hang_up(self) -> None:
        """End the processes, each after its ticket. All waiting callers fail."""
        if self._end.is_closed:
            return
        self._break(EOFError("hung up"))
        self._end.close(self.size)
        self._shut_down()

    def _shut_down(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    # -- packets

    def _send(self) -> None:
        while self._unsent:
            try:
                self._end.put(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._end.packets, self._send)
                return
            except OSError as error:
                self._break(error)
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._end.packets)

    def _take(self) -> None:
        """Pass all received results to their callers."""
        self._end.read_bell()
        while True:
            try:
                number, succeeded, result = self._end.get()
            except BlockingIOError:
                return
            except Exception as error:  # the other side is closed, or its packet cannot be read
                self._break(error)
                return
            if number == packets.READY:
                self.pids.append(result)
                if len(self.pids) == self.size and not self._ready.done():
                    self._ready.set_result(None)
                continue
            future = self._waiting.get(number)
            if future is None or future.done():
                continue  # its caller was cancelled
            if succeeded:
                future.set_result(result)
            else:
                future.set_exception(result)

    def _on_task_end(self, task: asyncio.Future[None]) -> None:
        """Break the crew, because the task of a process has ended."""
        if not task.cancelled():
            self._break(task.exception() or EOFError("a worker's task has ended"))

    def _break(self, error: BaseException) -> None:
        if self._broken is not None:
            return
        self._broken = error
        self._unsent.clear()
        self._loop.remove_reader(self._end.bell)
        self._loop.remove_writer(self._end.packets)
        for future in (self._ready, *self._waiting.values()):
            if not future.done():
                failure = BrokenExecutor("a worker died")
                failure.__cause__ = error
                future.set_exception(failure)
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # retrieved, so that asyncio does not log it
