"""The process that the workers of several pools are forked from: `multiprocessing`'s fork server.

It loads a module once and waits. Each worker begins as its copy, at once, and shares its memory until it
writes there. Its users are counted: it ends with the last of them, not with this process.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import threading
from multiprocessing.context import BaseContext
from typing import Any

_END_WAIT_S = 2.0

# The mutable state of the module: how many use the server, of which a process has one.
_users = 0

_server: Any = getattr(multiprocessing.forkserver, "_forkserver", None)
"""There is no public way to learn its pid, or to end it."""


def begin(module: str) -> None:
    """Have it load `module` already, for somebody who will `take` it soon."""
    multiprocessing.forkserver.set_forkserver_preload([module])
    multiprocessing.forkserver.ensure_running()


def take(module: str) -> BaseContext:
    """A context whose processes are forked from one that has imported `module`; `leave` it afterwards."""
    global _users  # noqa: PLW0603
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    _users += 1
    return context


def pid() -> int | None:
    """Its process id, if it runs and can be known."""
    found: int | None = getattr(_server, "_forkserver_pid", None)
    return found


def leave() -> None:
    """Somebody's processes have ended. The last one to leave waits until the server has, too, a while."""
    global _users  # noqa: PLW0603
    _users -= 1
    if not _users and pid() is not None and hasattr(_server, "_stop"):
        ending = threading.Thread(target=_server._stop, name="template-end", daemon=True)
        ending.start()
        ending.join(_END_WAIT_S)
