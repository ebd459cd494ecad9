"""Where the tests of a session keep what they make, and what of it is still there afterwards.

    <shared memory>/mdstream-tests-<session>/<worker>   runs, so that no test sees those of a neighbour
    <temporary>/mdstream-tests-<session>/<worker>       temporary files of the programs under test

A session is the process that was started as `pytest`; with pytest-xdist it has several workers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

from mdstream.frames.rundir import SHARED_MEMORY, default_root
from mdstream.pool import forkserver
from tests import warm
from tests.running import HANGING_S

_MARK = "_MDSTREAM_TEST"
"""In the environment of all that a test starts: its session and its worker. Orphans keep it."""
_FOLDERS = "_MDSTREAM_TEST_FOLDERS"
"""The folders of the session, for its workers."""
_PREFIX = "mdstream-tests-"
_HALF_MADE = re.compile(r"sem\.\w{6}")
_OWN = ".own"
"""Beside a worker's temporary files, those of the tests' own process, which go with it."""

_QUIET = {"MDSTREAM_SIMULATOR__RATE": "50"}
"""Messages per second of each stream of an embedded simulator: what most tests need."""

_TIMEOUTS = {
    "MDSTREAM_START_TIMEOUT_S": "120",
    "MDSTREAM_HANG_TIMEOUT_S": "60",
    "MDSTREAM_DRAIN_TIMEOUT_S": "120",
    "MDSTREAM_HANDOFF__TICKET_TIMEOUT_S": "60",
}
"""What is hung on a machine of our users' may be merely slow among other tests."""


class Session:
    """The folders of all tests together; made and removed by the process that was started as `pytest`."""

    def __init__(self) -> None:
        self._name = str(os.getpid())
        # What failing tests had in their `tmp_path` is kept where pytest always keeps it.
        self._kept = Path(os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir()))
        self._root = default_root()
        self._was_alone = self._is_alone()
        self._before = _shared_memory()
        self._folders = [
            folder / f"{_PREFIX}{self._name}" for folder in (self._root, Path(tempfile.gettempdir()))
        ]
        for folder in self._folders:
            folder.mkdir()
        os.environ[_FOLDERS] = os.pathsep.join(map(str, self._folders))

    def left(self) -> list[str]:
        """What tests have left: processes, runs, temporary files. Helpers of workers get a while to end."""
        deadline = time.monotonic() + HANGING_S
        while (found := processes(f"{self._name}/")) and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = [path for folder in self._folders for path in folder.iterdir() if path.suffix != _OWN]
        found += [str(path) for worker in workers for path in worker.iterdir()]
        found += map(str, SHARED_MEMORY.glob(f"sem.{_PREFIX}{self._name}-*"))
        if self._was_alone and self._is_alone():  # else it may be another session's
            found += map(str, _shared_memory() - self._before - set(self._folders))
        # glibc names a semaphore so for a moment; of a process that is killed then, the file stays.
        for path in (path for path in map(Path, found) if _HALF_MADE.fullmatch(path.name)):
            path.unlink(missing_ok=True)
        return [each for each in found if not _HALF_MADE.fullmatch(Path(each).name)]

    def _is_alone(self) -> bool:
        """Whether nothing else on this machine runs engines, as far as can be seen."""
        return all(path.name == f"{_PREFIX}{self._name}" for path in self._root.glob("mdstream-*"))

    def close(self) -> None:
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        # pytest removes what passing tests had in their `tmp_path`, but not the folder around it.
        for folder in self._kept.glob("pytest-of-*"):
            with contextlib.suppress(OSError):  # others are at it, or tests have failed
                for link in folder.glob("pytest-current"):
                    link.exists() or link.unlink()
                folder.rmdir()


@dataclass(frozen=True)
class Place:
    """The folders of one worker of a session, and the mark of the processes that its tests start."""

    mark: str
    folders: tuple[Path, Path]

    @classmethod
    def make(cls, worker: str) -> Place:
        """Make the folders; this process and all that it starts use them from now on."""
        runs, temporary = (Path(folder) / worker for folder in os.environ[_FOLDERS].split(os.pathsep))
        place = cls(f"{runs.parent.name.removeprefix(_PREFIX)}/{worker}", (runs, temporary))
        own = temporary.with_suffix(_OWN)
        for folder in (*place.folders, own):
            folder.mkdir()
        config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
        config["tempdir"] = str(own)
        config["semprefix"] = f"/{_PREFIX}{place.mark.replace('/', '-')}"
        os.environ |= {
            _MARK: place.mark,
            "MDSTREAM_FRAMES__DIRECTORY": str(runs),
            "TMPDIR": str(temporary),
            "XDG_STATE_HOME": str(own),  # for rejects of tests that set no folder for them
            **_TIMEOUTS,
            **_QUIET,
        }
        tempfile.tempdir = None
        return place

    def left(self) -> set[str]:
        """What is there now: runs, temporary files, processes."""
        found = {str(path) for folder in self.folders for path in folder.iterdir()}
        return found.union(processes(f"{self.mark}\0"))


def processes(mark: str) -> list[str]:
    """Processes whose mark begins with `mark`, as `pid command`; without this one and its helpers."""
    wanted = f"\0{_MARK}={mark}".encode()
    tracker = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
    helpers = (os.getpid(), tracker, forkserver.pid(), warm.pid())
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) in helpers:
            continue
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            # One that has ended, and that nobody has waited for, has no environment any more.
            if wanted in b"\0" + _read(f"/proc/{name}/environ"):
                command = _read(f"/proc/{name}/cmdline").replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{name} {command}")
    return found


def _read(path: str) -> bytes:
    """Return the bytes of a file, without `pathlib`: this is done for each process, twice in each test."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _shared_memory() -> set[Path]:
    return set(SHARED_MEMORY.iterdir()) if SHARED_MEMORY.is_dir() else set()
