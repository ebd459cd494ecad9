"""Name files that `multiprocessing` keeps outside a run's folder after the process that owns them.

    /dev/shm/sem.mdstream-<uid>-<pid>-*   semaphores of pools
    <temporary>/mdstream-ipc-<uid>-<pid>  sockets of fork servers

Python removes both when a process ends, but not when a whole process group is killed. So the process at
the top (supervisor, recorder, backfill, or the program that calls one) puts its process id into these
names, and the next one that starts removes those whose process no longer exists.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sized
from multiprocessing import resource_tracker
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

_SEMAPHORES = Path("/dev/shm")
_FOLDER = "mdstream-ipc"
_DEFAULT_PREFIX = "/mp"
"""The prefix of semaphores that Python uses by default."""

_LONGEST = 107 - len("/listener-12345678")
"""Longest folder: the address of a socket has at most 107 bytes with the name that Python adds."""


def claim() -> None:
    """Put this process's id into the names of semaphores and sockets, here and in its children.

    Only for our own processes: it changes `multiprocessing` for the whole process.
    """
    reap()
    _name(_config())
    allow_lost_tracker()


def allow_lost_tracker() -> None:
    """Let this process remove semaphores without errors when its resource tracker has been killed.

    Python starts another tracker then, which does not know the semaphores, and prints a traceback for each
    that is removed. So a semaphore is registered before it is unregistered; to do so twice changes nothing.
    Only for our own processes, like `claim`. A tracker that is killed between the two prints one traceback.
    """
    resource_tracker.unregister = _unregister_any


_unregister = resource_tracker.unregister


def _unregister_any(name: Sized, rtype: str) -> None:
    resource_tracker.register(name, rtype)
    _unregister(name, rtype)


@contextlib.contextmanager
def claimed() -> Iterator[None]:
    """Put this process's id into names that are made inside, unless the process has names of its own.

    For pools in a process of the user, whose other uses of `multiprocessing` keep their names.
    """
    config = _config()
    before = {name: config.get(name) for name in ("semprefix", "tempdir")}
    if before["semprefix"] == _DEFAULT_PREFIX:
        _name(config)
    try:
        yield
    finally:
        config.update(before)


def _config() -> dict[str, Any]:
    """Return what `multiprocessing` knows of this process, and passes on to its children."""
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    return config


def _name(config: dict[str, Any]) -> None:
    owner = f"{os.getuid()}-{os.getpid()}"
    config["semprefix"] = f"/mdstream-{owner}"
    sockets = f"{tempfile.gettempdir()}/{_FOLDER}-{owner}"
    if len(os.fsencode(sockets)) > _LONGEST:
        return  # then `multiprocessing` uses its own folder, whose name is shorter
    with contextlib.suppress(OSError):
        if not os.path.isdir(sockets):
            os.mkdir(sockets, mode=0o700)
            # After all other finalizers, as for the folder of `multiprocessing`.
            Finalize(None, shutil.rmtree, args=(sockets, True), exitpriority=-100)
        config["tempdir"] = sockets


def reap() -> None:
    """Remove the files of processes that no longer exist."""
    for path in _SEMAPHORES.glob(f"sem.mdstream-{os.getuid()}-*"):
        if _is_dead(path.name.rpartition("-")[0]):
            path.unlink(missing_ok=True)
    for path in Path(tempfile.gettempdir()).glob(f"{_FOLDER}-{os.getuid()}-*"):
        if _is_dead(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _is_dead(owner: str) -> bool:
    """Return whether the process whose id ends the name `owner` no longer exists."""
    pid = owner.rpartition("-")[2]
    # In a restarted container, this process may have the id of its predecessor.
    return pid.isdecimal() and (int(pid) == os.getpid() or not Path("/proc", pid).exists())
