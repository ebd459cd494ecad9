"""Start of processes: which signals a child leaves to its parent, and where it imports from.

1. A child leaves Ctrl-C and the closing of the terminal to the process that the user started.
2. It imports modules as its parent does, but not from the folder that Python puts first: the current one,
   or that of the user's script. A `queue.py` or `workers.py` there must not break it.
3. It does not run the user's script again, as `multiprocessing` would.

Start every process inside `protect_start()`. If `multiprocessing` starts it, use `without_script()` too.
Start programs of this package as `python("-m", ...)`.
"""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import ModuleType

_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Ctrl-C, and the closing of the terminal."""

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
"""The folder that contains this package. If it is not installed, a child lacks this folder in its path."""

_PACKAGE = __name__.partition(".")[0]


def ignore_terminal() -> None:
    """Ignore Ctrl-C and the closing of the terminal. For a child: its parent decides how it ends."""
    for number in _TERMINAL:
        signal.signal(number, signal.SIG_IGN)


def python(*arguments: str) -> list[str]:
    """Return the command that runs this Python with a safe import path."""
    return [sys.executable, "-P", *arguments]


_ONE_AT_A_TIME = threading.RLock()
"""Held while a process starts: what is changed for it belongs to the whole process, not to a thread."""


@contextlib.contextmanager
def protect_start() -> Iterator[None]:
    """Protect a process that is started inside, and its children, from the terminal and the current folder.

    A signal that is blocked here stays blocked in the child until it calls `ignore_terminal`. In this
    process it is only delayed until the start is done.
    """
    with _ONE_AT_A_TIME, import_safely():
        # Python starts it with the first child, and unblocks Ctrl-C when it does.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Keep a process that `multiprocessing` starts inside from importing the script of this process.

    It does not import from the script's folder either. Its functions are in modules of this package, and a
    script without `if __name__ == "__main__"` would run again in each process.
    """
    with _ONE_AT_A_TIME:
        path = _without_first()
        if not _has_this(path):
            path = _with_root(path)
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        before, sys.path = sys.path, path
        try:
            yield
        finally:
            sys.path = before
            sys.modules["__main__"] = main


@contextlib.contextmanager
def import_safely() -> Iterator[None]:
    """Keep a process that is started inside, and its children, from importing from the current folder."""
    with _ONE_AT_A_TIME:
        changed = {"PYTHONSAFEPATH": "1"}
        if not _has_this(_without_first()):
            before_ours = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
            changed["PYTHONPATH"] = os.pathsep.join(_with_root(list(before_ours)))
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
        path.remove(first)  # only once: the user may have added it again
    return path


def _has_this(path: list[str]) -> bool:
    """Return whether an import from `path` finds this very package, and not another copy of it."""
    found = next(filter(_has_package, path), None)
    return found is not None and os.path.realpath(found) == _ROOT


def _with_root(path: list[str]) -> list[str]:
    """Return `path` with the folder of this package: behind all else, but before another copy of it.

    There may be two: `python -m mdstream` in a clone, beside an installed version. All processes of a run
    must have the same.
    """
    place = next((index for index, entry in enumerate(path) if _has_package(entry)), len(path))
    return [*path[:place], _ROOT, *path[place:]]


def _has_package(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, _PACKAGE, "__init__.py"))
