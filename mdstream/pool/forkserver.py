"""The process that others are forked from: `multiprocessing`'s fork server.

It loads modules once and waits. Each process of its owner's begins as its copy, at once, and shares its
memory until it writes there. Its users are counted: it ends with the last of them, not with this process.

An engine's feeds are forked from one such process, and before one of them does anything else it forks a
fork server of its own (`copy_here`), for its workers: which so are below their feed, and end with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, arbitrary_address  # type: ignore[attr-defined]
from multiprocessing.context import BaseContext
from typing import Any

_END_WAIT_S = 2.0

# The mutable state of the module: how many use the server, of which a process has one.
_users = 0

_CAN_COPY = sys.version_info < (3, 14)
"""Later servers want a key; there a fork server of a feed's own is started like any other."""

_server: Any = getattr(multiprocessing.forkserver, "_forkserver", None)
"""There is no public way to learn its pid, to end it, or to make it of a process that is there."""


def begin(*modules: str) -> None:
    """Have it load `modules` already, for somebody who will `take` it soon."""
    multiprocessing.forkserver.set_forkserver_preload(list(modules))
    multiprocessing.forkserver.ensure_running()


def take(*modules: str) -> BaseContext:
    """A context whose processes are forked from one that has imported `modules`; `leave` it afterwards."""
    global _users  # noqa: PLW0603
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    _users += 1
    return context


def copy_here(unneeded: Connection) -> None:
    """Fork a copy of this process to serve as its own fork server; `unneeded` is closed in the copy.

    Call it before any thread or event loop exists. No-op unless this process came from a fork server.
    """
    if not _CAN_COPY or getattr(_server, "_forkserver_alive_fd", None) is None:
        return
    address = arbitrary_address("AF_UNIX")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen()
        alive, ours = os.pipe()
        pid = os.fork()
        if not pid:
            _serve(listener.fileno(), alive, (ours, _server._forkserver_alive_fd), unneeded)
    os.close(alive)
    # The one that this process comes from need not know whether it lives: its owner does.
    os.close(_server._forkserver_alive_fd)
    _server._forkserver_address, _server._forkserver_alive_fd = address, ours
    _server._forkserver_pid = pid


def _serve(listener: int, alive: int, others: tuple[int, ...], unneeded: Connection) -> None:
    """Be a fork server, until all who know of `alive`'s other end are gone. Never returns."""
    code = 1
    try:
        for descriptor in others:
            os.close(descriptor)
        unneeded.close()
        multiprocessing.forkserver.main(listener, alive, [])
    except SystemExit:
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def pid() -> int | None:
    """Its process id, if it runs and can be known."""
    found: int | None = getattr(_server, "_forkserver_pid", None)
    return found


def kill() -> None:
    """End it by force: one that hangs tells nobody how its children ended."""
    if (hung := pid()) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(hung, signal.SIGKILL)


@contextlib.contextmanager
def killed_after(seconds: float) -> Iterator[None]:
    """Kill a fork server that hangs while a process starts; the start then fails with `EOFError`."""
    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def leave() -> None:
    """Somebody's processes have ended. The last one to leave waits until the server has, too, a while."""
    global _users  # noqa: PLW0603
    _users -= 1
    if not _users and pid() is not None and hasattr(_server, "_stop"):
        ending = threading.Thread(target=_server._stop, name="fork server-end", daemon=True)
        ending.start()
        ending.join(_END_WAIT_S)
        if ending.is_alive():
            kill()
            ending.join(_END_WAIT_S)
