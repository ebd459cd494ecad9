"""What a terminal sends to all processes in it, and only the one that was started there shall answer."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Ctrl-C, and the end of the terminal itself."""


def ignore() -> None:
    """For a child: leave Ctrl-C and the end of the terminal to the parent, who will say what to do."""
    for number in _TERMINAL:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Around the start of a process: it comes up deaf to the terminal, until it can `ignore` it.

    A blocked signal stays blocked in the children; ours is only late by the moment that a start takes.
    """
    # Python starts it with the first child, and unblocks Ctrl-C for that one as it does so.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
