"""Name what `multiprocessing` keeps outside of a run's folder after the process that owns it.

    /dev/shm/sem.mdstream-<uid>-<pid>-*   semaphores of pools
    <temporary>/mdstream-ipc-<uid>-<pid>  sockets of fork servers

Python removes both when a process ends, but not when a whole process group is killed. So the
process that owns everything below it (supervisor, recorder, backfill) puts its process id into these names,
and the next one to start removes those whose process no longer exists.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

_SEMAPHORES = Path("/dev/shm")
_FOLDER = "mdstream-ipc"

_LONGEST = 107 - len("/listener-12345678")
"""An address of a socket is no longer than 107 bytes, the name that `multiprocessing` adds included."""


def claim() -> None:
    """Have this process, and all that it starts from now on, put its name on semaphores and sockets.

    For processes that are ours alone: it changes how all of `multiprocessing` in this process works.
    """
    reap()
    owner = f"{os.getuid()}-{os.getpid()}"
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    config["semprefix"] = f"/mdstream-{owner}"
    sockets = f"{tempfile.gettempdir()}/{_FOLDER}-{owner}"
    if len(os.fsencode(sockets)) > _LONGEST:
        return  # they go to a folder of `multiprocessing`'s own, whose name is shorter
    with contextlib.suppress(OSError):
        os.mkdir(sockets, mode=0o700)
        config["tempdir"] = sockets
        # After all else that ends with the process, as `multiprocessing` does it with its own folder.
        Finalize(None, shutil.rmtree, args=(sockets, True), exitpriority=-100)


def reap() -> None:
    """Remove what processes that no longer exist have left."""
    for path in _SEMAPHORES.glob(f"sem.mdstream-{os.getuid()}-*"):
        if _is_dead(path.name.rpartition("-")[0]):
            path.unlink(missing_ok=True)
    for path in Path(tempfile.gettempdir()).glob(f"{_FOLDER}-{os.getuid()}-*"):
        if _is_dead(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _is_dead(owner: str) -> bool:
    """Whether the process whose id ends the name `owner` no longer exists."""
    pid = owner.rpartition("-")[2]
    # In a container that starts anew, this process may well have the id of the one before it.
    return pid.isdecimal() and (int(pid) == os.getpid() or not Path("/proc", pid).exists())
