"""Name files that `multiprocessing` keeps outside a run's folder after the process that owns them.

    /dev/shm/sem.mdstream-<uid>-<pid>-*            semaphores of pools
    <temporary>/mdstream-ipc-<uid>-<random>-<pid>  sockets of fork servers

Python removes both when a process ends, but not when a whole process group is killed. So the process at the
top (supervisor, recorder, backfill, or the program that calls one) puts its process id into these names.
The next one that starts removes those whose process no longer exists.

Another user who can write to a socket of a fork server can run code as its user. Other users can create
folders among temporary files, and can guess process ids. So the name of the folder has a random part, and
the folder is created, never found.
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

from mdstream.system.shared_places import is_private

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
def claim_names() -> Iterator[None]:
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
    config["semprefix"] = f"/mdstream-{os.getuid()}-{os.getpid()}"
    if folder := _folder():
        config["tempdir"] = folder


def _folder() -> str:
    """Return this process's folder for sockets, created at the first call; empty if there can be none.

    Then `multiprocessing` uses its own folder, which is private and has a random, shorter name.
    """
    known = _folders.get(os.getpid())
    if known and is_private(Path(known)):
        return known
    with contextlib.suppress(OSError):
        made = tempfile.mkdtemp(f"-{os.getpid()}", f"{_FOLDER}-{os.getuid()}-")
        # After all other finalizers, as for the folder of `multiprocessing`.
        finalizer = Finalize(None, shutil.rmtree, args=(made, True), exitpriority=-100)
        if len(os.fsencode(made)) <= _LONGEST:
            _folders[os.getpid()] = made
            return made
        finalizer()
    return ""


_folders: dict[int, str] = {}
"""The folder of each process: a forked child inherits this, and makes its own. Written by `_folder`."""


def reap() -> None:
    """Remove the files of processes that no longer exist, if they are this user's alone."""
    for path in _SEMAPHORES.glob(f"sem.mdstream-{os.getuid()}-*"):
        if _is_dead(path.name.rpartition("-")[0]):
            with contextlib.suppress(OSError):  # another user put it there
                path.unlink()
    for path in Path(tempfile.gettempdir()).glob(f"{_FOLDER}-{os.getuid()}-*"):
        if _is_dead(path.name) and is_private(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_dead(owner: str) -> bool:
    """Return whether the process whose id ends the name `owner` no longer exists."""
    pid = owner.rpartition("-")[2]
    # In a restarted container, this process may have the id of its predecessor.
    return pid.isdecimal() and (int(pid) == os.getpid() or not Path("/proc", pid).exists())
