"""The fork server of the tests: one process that forks pools and readers.

A new Python process with Polars and Numba takes a second and a half to start; a fork takes milliseconds.
This is the same fork server that feeds and backfills use. It ends with the session.
"""

from __future__ import annotations

import os
from multiprocessing.context import BaseContext

from mdstream.pool import forkserver
from mdstream.pool.pool import SINGLE_THREADED, forkserver_modules

_context: BaseContext | None = None


def get_fork_context() -> BaseContext:
    """Return a context that forks its processes. Pools that start later fork their workers too."""
    global _context
    if _context is None:
        os.environ.update(SINGLE_THREADED)
        _context = forkserver.take(*forkserver_modules())
        forkserver.begin(*forkserver_modules())
    return _context


def end_fork_server() -> None:
    """End the fork server, for tests of its start and end, and at the end of the session."""
    global _context
    if _context is not None:
        _context = None
        forkserver.leave()
