"""A coroutine in an event loop of its own, in a thread of its own: it never blocks the caller's loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")


_POLL_S = 0.2


class OwnLoop(Generic[T]):
    """Runs the coroutine that `make` returns, from the creation of this object on.

    `make` is called in the thread, too: what it imports does not block the caller either.
    """

    outcome: Future[T]
    """The coroutine's result or error."""
    # Written by the thread and by `cancel`, under `_lock`.
    _task: asyncio.Task[Any] | None
    _is_cancelled: bool

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        self.outcome = Future()
        self._lock = threading.Lock()
        self._task, self._is_cancelled = None, False
        self._thread = threading.Thread(target=self._run, name="own loop")
        self._thread.start()

    def cancel(self) -> None:
        """Cancel the coroutine, and wait until it has cleaned up."""
        with self._lock:
            self._is_cancelled = True
            if self._task is not None:
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            result = asyncio.run(self._main())
        except asyncio.CancelledError:
            self.outcome.cancel()
        except BaseException as error:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(result)

    async def _main(self) -> T:
        with self._lock:
            self._task = asyncio.current_task()
            if self._is_cancelled:
                raise asyncio.CancelledError
        try:
            return await self._make()
        finally:
            with self._lock:
                self._task = None


def run_blocking(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, also in a program that has an event loop, such as a notebook.

    Without a loop it runs in this thread. Ctrl-C cancels it, and is raised once it has cleaned up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    own, task = OwnLoop(make), asyncio.current_task()
    try:
        while not wait([own.outcome], _POLL_S).done:
            if task is not None and task.cancelling():  # `asyncio.run` makes this of the first Ctrl-C
                raise asyncio.CancelledError
    except (KeyboardInterrupt, asyncio.CancelledError):
        own.cancel()
        raise
    return own.outcome.result()


async def run_apart(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a thread, and wait for its end without blocking this loop.

    If this is cancelled, the coroutine is cancelled too, and has cleaned up when this ends.
    """
    own = OwnLoop(make)
    try:
        return await asyncio.shield(asyncio.wrap_future(own.outcome))
    except asyncio.CancelledError:
        await asyncio.to_thread(own.cancel)
        raise
