"""The folder of a run: what its processes share, who owns it, how to find and when to remove it.

    <root>/mdstream-<uid>-<run>/
        owner.lock               locked by the supervisor until it ends
        recorder.lock            locked by the recorder, if there is one
        run.json                 facts about the run, for people and for `attach`
        frames/<name>/           head, and chunks as Arrow IPC files
        dictionaries/            the texts of codes, one JSON text in each line
        slabs/                   payloads on their way to the workers
        feeds/<stream>.state     counters of a feed
        feeds/<stream>.requests  times of its REST requests
        feeds/<stream>.contracts the contracts that it follows, by underlying
        feeds/<stream>.lock      locked by the feed: it may still commit after the supervisor has died

The kernel releases a lock when its owner ends, for whatever reason, and a reused process id does not hold
it. So a folder whose `owner.lock` is free belongs to a dead run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from mdstream.errors import NoRunError, SharedMemoryError
from mdstream.handoff.space import NO_ROOM, no_space, room_for
from mdstream.system.paths import require_path
from mdstream.system.shared_places import is_private
from mdstream.text.nearest import suggest

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
_FOLDERS = ("frames", "dictionaries", "slabs", "feeds")


def default_root() -> Path:
    """Return the folder of all runs.

    It is `MDSTREAM_FRAMES__DIRECTORY`, so that readers look where engines write; otherwise `/dev/shm`, or
    the folder for temporary files if there is no `/dev/shm`, or it cannot be written.
    """
    if directory := os.environ.get("MDSTREAM_FRAMES__DIRECTORY"):
        return Path(directory)
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK):
        return SHARED_MEMORY
    return Path(tempfile.gettempdir())


def _prefix() -> str:
    return f"mdstream-{os.getuid()}-"


def lock_path(run: Path) -> Path:
    return run / "owner.lock"


def frame_path(run: Path, name: str) -> Path:
    return run / "frames" / name


def dictionary_path(run: Path, stream: str, name: str) -> Path:
    return run / "dictionaries" / f"{stream}.{name}.jsonl"


def slabs_path(run: Path) -> Path:
    return run / "slabs"


def state_path(run: Path, stream: str) -> Path:
    return run / "feeds" / f"{stream}.state"


def feed_lock_path(run: Path, stream: str) -> Path:
    return run / "feeds" / f"{stream}.lock"


def requests_path(run: Path, stream: str) -> Path:
    return run / "feeds" / f"{stream}.requests"


def contracts_path(run: Path, stream: str) -> Path:
    return run / "feeds" / f"{stream}.contracts"


class RunDirectory:
    """The folder of a new run, owned by this process; a context manager."""

    def __init__(self, root: Path | None = None) -> None:
        root = root or default_root()
        self._abandoned = False
        now = time.time_ns()
        # In UTC: names sort by time, also when local clocks are set back.
        begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 1_000_000_000))
        self.run = f"{begun}.{now // 1_000_000 % 1000:03d}-{os.getpid()}"
        self.path = root / (_prefix() + self.run)
        self._parts = [str(self.path / folder) for folder in _FOLDERS]
        hidden = root / f".{_prefix()}{self.run}"
        try:
            hidden.mkdir(mode=0o700)
            for folder in _FOLDERS:
                (hidden / folder).mkdir()
            self._lock = os.open(lock_path(hidden), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            _describe(hidden, {"run": self.run, "pid": os.getpid()})
            # Renamed once it is locked, so that the reaper of another run never finds the lock free.
            hidden.rename(self.path)
        except OSError as error:
            shutil.rmtree(hidden, ignore_errors=True)
            if error.errno in NO_ROOM:
                raise no_space(hidden, 4096) from error
            raise SharedMemoryError(
                f"cannot create a run under {root}: {error.strerror}. Set frames.directory to another"
            ) from error

    def describe(self, **facts: Any) -> None:
        """Write `facts` to `run.json`."""
        _describe(self.path, {"run": self.run, "pid": os.getpid(), **facts})

    @property
    def is_removed(self) -> bool:
        """Whether somebody has removed the folder, or a part of it."""
        try:
            ours, found = os.fstat(self._lock), os.stat(lock_path(self.path))
        except FileNotFoundError:
            return True
        return not os.path.samestat(ours, found) or not all(map(os.path.isdir, self._parts))

    def abandon(self) -> None:
        """Leave the folder to the recorder, which still reads it: `close` does not remove it then."""
        self._abandoned = True

    def close(self) -> None:
        """Remove the folder. Readers keep what they have mapped."""
        if not self._abandoned:
            remove(self.path)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _describe(folder: Path, facts: dict[str, Any]) -> None:
    """Write `run.json` atomically: readers find the previous or the new contents.

    The file for the next contents exists in advance: a full file system must not keep a run from ending.
    """
    data, new = json.dumps(facts, indent=2).encode() + b"\n", folder / "run.json.new"
    with open(os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
        file.write(data)
        file.truncate()
    new.rename(folder / "run.json")
    with contextlib.suppress(OSError):
        new.write_bytes(data)


def read_description(path: Path) -> dict[str, Any]:
    """Return the contents of `run.json`. Raises `NoRunError` if it cannot be read."""
    try:
        facts: dict[str, Any] = json.loads((path / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise NoRunError(f"{path / 'run.json'} cannot be read: {error}") from error
    return facts


def is_alive(path: Path) -> bool:
    """Whether the engine of the run in the folder `path` still runs."""
    return _is_locked(lock_path(path))


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def list_runs(root: Path | None = None) -> list[Path]:
    """Return the folders of this user's runs under `root`, dead runs included, oldest first."""
    root = root or default_root()
    return sorted(filter(is_private, root.glob(_prefix() + "*")), key=lambda path: path.name)


def find(run: str | None = None, root: Path | None = None) -> Path:
    """Return the folder of run `run`, or of the newest running one. Raises `NoRunError`.

    If several run and none is named, a warning says which one it is.
    """
    if run is not None and lock_path(Path(require_path("run", run))).exists():
        if not is_private(Path(run)):
            raise NoRunError(f"{run} is a link, or not this user's alone: it is not read")
        return Path(run)
    candidates = [p for p in list_runs(root) if run is None or p.name == _prefix() + run]
    alive = [p for p in candidates if is_alive(p)]
    if not alive:
        where = root or default_root()
        if candidates and run is not None:
            raise NoRunError(f"run {run} under {where} is dead: its engine has ended")
        running = [path.name.removeprefix(_prefix()) for path in list_runs(root) if is_alive(path)]
        if run and running:
            raise NoRunError(f"no run {run} under {where}; {suggest(run, running)}")
        named = f"run {run}" if run else "running engine"
        raise NoRunError(f"no {named} under {where}: start one with `mdstream run`")
    if run is None and len(alive) > 1:
        *others, newest = (path.name.removeprefix(_prefix()) for path in alive)
        log.warning(
            "%d engines run; this is the newest, run %s. Others: %s", len(alive), newest, ", ".join(others)
        )
    return alive[-1]


def reap(root: Path | None = None) -> list[Path]:
    """Remove the folders of dead runs that nobody needs; return the removed ones."""
    dead = find_removable(root)
    for path in dead:
        remove(path)
    for path in (root or default_root()).glob("." + _prefix() + "*"):
        # Not renamed: the process that creates it died, or has not finished yet.
        if is_private(path) and not is_alive(path) and time.time() - path.stat().st_mtime > 60:
            shutil.rmtree(path, ignore_errors=True)
            dead.append(path)
    return dead


def find_removable(root: Path | None = None) -> list[Path]:
    """Return the dead runs without a process that works on them, and without rows to be recorded."""
    unrecorded = find_unrecorded(root)
    return [
        path
        for path in list_runs(root)
        if not (is_alive(path) or path in unrecorded or has_feeds(path) or has_recorder(path))
    ]


def find_unrecorded(root: Path | None = None) -> dict[Path, str]:
    """Return the dead runs whose recording is not finished, with the path of their store."""
    found = {}
    for path in list_runs(root):
        with contextlib.suppress(NoRunError):
            store = read_description(path).get("store")
            if store and not is_alive(path):
                found[path] = str(store)
    return found


def lock_feed(run: Path, stream: str) -> int:
    """Mark this process as the feed of `stream` until it ends; return the descriptor of the lock.

    Raises `NoSpaceError` if there is no room for the file.
    """
    path = feed_lock_path(run, stream)
    with room_for(path, 1):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def has_feeds(path: Path) -> bool:
    """Whether a feed of the run in the folder `path` still commits, even if the engine is dead."""
    return any(_is_locked(lock) for lock in (path / "feeds").glob("*.lock"))


def has_recorder(path: Path) -> bool:
    """Whether a recorder works on the run in the folder `path`."""
    return _is_locked(path / "recorder.lock")


def remove(path: Path) -> None:
    """Remove a run's folder. Readers keep what they have mapped."""
    shutil.rmtree(path, ignore_errors=True)
