"""The fork server of `multiprocessing`: the process from which others are forked.

It loads modules once, and waits. Each process of its owner starts at once as a copy of it, and shares its
memory. Its users are counted: it ends with the last of them, not with this process.

The feeds of an engine are forked from one such process. A feed with a fixed number of workers first forks a
fork server of its own (`copy_here`), so that its workers are its descendants. A feed that may never need
any asks the process that it was forked from itself (`share`). Then a worker is a sibling of its feed, and
costs nothing before it is needed. Either way a worker watches its feed and ends with it.
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

from mdstream.pool import ipc_names
from mdstream.system import children

_END_WAIT_S = 2.0
_GUARD = "mdstream.pool.descriptor_patch"
"""Loaded by each server first: it survives a process that was killed while it asked for a child."""

_users = 0
"""Number of users of this process's server; written by `take` and `leave`."""

_shared_pid: int | None = None
"""The process that this one was forked from, if it forks this one's children too; written by `share`."""

_CAN_COPY = sys.version_info < (3, 14)
"""Later servers need a key: there a feed starts its fork server as any other process does."""

_server: Any = getattr(multiprocessing.forkserver, "_forkserver", None)
"""The private object: there is no public way to get the server's pid, end it, or make a process one."""


def begin(*modules: str) -> None:
    """Start the server so that it loads `modules`, for a user that will `take` it soon."""
    multiprocessing.forkserver.set_forkserver_preload([_GUARD, *modules])
    with ipc_names.claim_names():
        multiprocessing.forkserver.ensure_running()


def take(*modules: str) -> BaseContext:
    """Return a context whose processes are forked from one with `modules` loaded; `leave` it afterwards."""
    global _users  # noqa: PLW0603
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_GUARD, *modules])
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
    # The server that this process was forked from need not watch it: the owner does.
    os.close(_server._forkserver_alive_fd)
    _server._forkserver_address, _server._forkserver_alive_fd = address, ours
    _server._forkserver_pid = pid


def share() -> None:
    """Let the process that this one was forked from fork this one's children too.

    When it has ended, a fork server of this process's own replaces it, as if there had been none. No-op
    unless this process came from a fork server.
    """
    global _shared_pid  # noqa: PLW0603
    if _CAN_COPY and getattr(_server, "_forkserver_alive_fd", None) is not None:
        _shared_pid = os.getppid()
        _server.ensure_running = _ensure_shared


def _ensure_shared() -> None:
    """Leave a shared fork server that has ended, and start another one."""
    global _shared_pid  # noqa: PLW0603
    if is_running():
        return
    _shared_pid = None
    os.close(_server._forkserver_alive_fd)
    _server._forkserver_address = _server._forkserver_alive_fd = None
    del _server.ensure_running
    _server.ensure_running()


def is_running() -> bool:
    """Return whether a process of this one's can be forked at once."""
    return pid() is not None or (_shared_pid is not None and os.getppid() == _shared_pid)


def _serve(listener: int, alive: int, others: tuple[int, ...], unneeded: Connection) -> None:
    """Serve until all processes with the other end of `alive` have ended. Never returns."""
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
    """Return the id of this process's own server; None if it does not run, or the id is unknown."""
    found: int | None = getattr(_server, "_forkserver_pid", None)
    return found


def kill() -> None:
    """Kill the server: if it hangs, it does not report how its children ended."""
    if is_running() and (hung := pid() or _shared_pid) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(hung, signal.SIGKILL)


def wait_until_loaded(context: BaseContext, seconds: float) -> None:
    """Block until the fork server of `context` has loaded its modules; start it if it is dead.

    If that takes longer than `seconds`, the server is killed, and this raises `EOFError`.
    """
    process = context.Process(target=_end_at_once)  # type: ignore[attr-defined]
    with kill_after(seconds), children.protect_start(), children.without_script(), ipc_names.claim_names():
        process.start()
    process.join()


def _end_at_once() -> None:
    """Do nothing: the process only shows that processes start."""


@contextlib.contextmanager
def kill_after(seconds: float) -> Iterator[None]:
    """Kill a fork server that hangs while a process starts; the start then fails with `EOFError`."""
    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def leave() -> None:
    """Note that one user's processes have ended. The last user waits a moment for the server to end."""
    global _users  # noqa: PLW0603
    _users -= 1
    if not _users and pid() is not None and hasattr(_server, "_stop"):
        ending = threading.Thread(target=_server._stop, name="fork server-end", daemon=True)
        ending.start()
        ending.join(_END_WAIT_S)
        if ending.is_alive():
            kill()
            ending.join(_END_WAIT_S)
