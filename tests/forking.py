"""The process that pools and readers of tests are forked from: one for all tests of a process.

To start Python with Polars and Numba costs a second and a half; to fork a process that has loaded them, some
milliseconds. It is the fork server that feeds and backfills have, and it ends with the session.
"""

from __future__ import annotations

import os
from multiprocessing.context import BaseContext

from mdstream.pool import forkserver
from mdstream.pool.pool import SINGLE_THREADED, forkserver_modules

_context: BaseContext | None = None


def forked() -> BaseContext:
    """A context whose processes are forked; pools that start from now on fork their workers, too."""
    global _context
    if _context is None:
        os.environ.update(SINGLE_THREADED)
        _context = forkserver.take(*forkserver_modules())
        forkserver.begin(*forkserver_modules())
    return _context


def end_fork_server() -> None:
    """For tests of how such a process starts and ends, and at the end of the session."""
    global _context
    if _context is not None:
        _context = None
        forkserver.leave()
