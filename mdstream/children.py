"""How this package starts processes: what a child leaves to others, and where it imports from.

1. A child leaves Ctrl-C and the end of the terminal to the process that the user started.
2. It imports modules as its parent does, but not from the folder that Python puts first: the current one,
   or that of the user's script. A `queue.py` or `workers.py` there must not break it.
3. It does not run the user's script again, as `multiprocessing` would have it.

`starting()` is around every start, with `without_script()` where `multiprocessing` starts the process.
A program of ours is started as `python("-m", ...)`.
"""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import ModuleType

_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Ctrl-C, and the end of the terminal itself."""

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
"""The folder that this package is in. It is not on the path of a child if it is not installed."""


def ignore_terminal() -> None:
    """In a child: leave Ctrl-C and the end of the terminal to the parent, which says what to do."""
    for number in _TERMINAL:
        signal.signal(number, signal.SIG_IGN)


def python(*arguments: str) -> list[str]:
    """Return the command that runs this Python with a safe import path."""
    return [sys.executable, "-P", *arguments]


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Around the start of a process: it, and all that it starts, are safe from the terminal and from the
    current folder.

    A blocked signal stays blocked in the child, until it can `ignore_terminal`; ours is only late by the
    moment that a start takes.
    """
    with importing_safely():
        # Python starts it with the first child, and unblocks Ctrl-C for that one as it does so.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Around the start of a process by `multiprocessing`: it neither imports the script that this process
    runs, nor from the script's folder.

    The functions it is given are in modules of ours; and a script without `if __name__ == "__main__"` would
    do in each process all that it does.
    """
    path = _without_first()
    if not _has_root(path):
        path.append(_ROOT)
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    before, sys.path = sys.path, path
    try:
        yield
    finally:
        sys.path = before
        sys.modules["__main__"] = main


@contextlib.contextmanager
def importing_safely() -> Iterator[None]:
    """Around the start of a process: neither it, nor what it starts, imports from the current folder."""
    changed = {"PYTHONSAFEPATH": "1"}
    if not _has_root(_without_first()):
        changed["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), _ROOT]))
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _without_first() -> list[str]:
    """Return `sys.path` without the folder that Python has put first."""
    path = list(sys.path)
    if sys.flags.safe_path:
        return path
    places = {"", multiprocessing.process.ORIGINAL_DIR}  # type: ignore[attr-defined]
    with contextlib.suppress(FileNotFoundError):
        places.add(os.getcwd())
    if file := getattr(sys.modules["__main__"], "__file__", None):
        places.add(os.path.dirname(os.path.realpath(file)))
    first = next((entry for entry in path if entry in places), None)
    if first is not None:
        path.remove(first)  # once: it may be there again because the user wants it
    return path


def _has_root(path: list[str]) -> bool:
    return _ROOT in map(os.path.realpath, path)
