"""The processes of a pool, one generation of them.

    do() ─► packet ─► whichever process waits longest ─► packet ─► result

A `ProcessPoolExecutor` starts and watches the processes. With its `submit`, two more threads would take the
GIL for every ticket, and the loop would stop for a third of a millisecond. So each process gets one endless
task, `serve`, and each ticket is a packet (`handoff.packets`), which costs some 20 µs.

When a process dies, the executor and all its tasks break, and every running ticket fails with
`BrokenExecutor`, as with `submit`.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess as Process
from typing import Any

from mdstream.handoff import packets
from mdstream.pool import ipc_names
from mdstream.system import children


class Crew:
    """`size` processes; each calls `initializer(end)`, and then `serve()`, which never returns.

    `context` starts them; it must not fork this process, which would copy a running loop. `serve` sends
    `(packets.READY, True, pid)`, and then, for each `(number, function, arguments)`, `(number, True,
    result)` or `(number, False, exception)`.
    """

    # Written only by the crew, in the owner's loop.
    processes: set[Process]
    _waiting: dict[int, asyncio.Future[Any]]
    """Number of a ticket → the caller's future."""
    _unsent: deque[tuple[int, Callable[..., Any], tuple[Any, ...]]]
    """Tickets for which the socket had no room; at most one for each caller."""
    _pids: list[int]
    """Ready processes."""
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
        self._loop = asyncio.get_running_loop()
        self._end, theirs = packets.make_pair()
        self._numbers = itertools.count(packets.READY + 1)
        self._waiting = {}
        self._unsent = deque()
        self._pids = []
        self._ready = self._loop.create_future()
        self._broken = None
        others = set(multiprocessing.active_children())
        with children.starting(), children.without_script(), ipc_names.claimed():
            executor = None
            try:
                executor = self._executor = ProcessPoolExecutor(size, context, initializer, (theirs,))
                for _ in range(size):
                    task = asyncio.wrap_future(executor.submit(serve))
                    task.add_done_callback(self._on_task_end)
            except BaseException:  # no room for semaphores, or a process died while it started
                self._end.close()
                if executor is not None:
                    executor.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                theirs.close()  # the processes have copies; without them that side is closed
        self.processes = set(multiprocessing.active_children()) - others
        self._loop.add_reader(self._end.bell, self._take)

    async def ready(self) -> list[int]:
        """Wait until every process is ready; return their ids. Raises `BrokenExecutor` if one dies."""
        await self._ready
        return sorted(self._pids)

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
                self._pids.append(result)
                if len(self._pids) == self.size and not self._ready.done():
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
