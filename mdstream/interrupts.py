"""Signals that a terminal sends to all its processes, but that only the one started there handles."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Ctrl-C, and the closing of the terminal."""


def ignore() -> None:
    """Ignore Ctrl-C and the closing of the terminal. For a child: its parent decides how it ends."""
    for number in _TERMINAL:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def block_interrupts() -> Iterator[None]:
    """Block the terminal's signals while a process is started, until it can `ignore` them itself.

    A child inherits the mask. In this process, a signal is only delayed until the start is done.
    """
    # Python starts it with the first child, and unblocks Ctrl-C when it does.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
