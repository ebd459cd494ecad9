"""What a recorder tells of itself, in the run's own folder: `recorder.json`, and `recorder.lock`."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from mdstream.errors import ConfigError


class Recorded(msgspec.Struct):
    """How far a frame is recorded."""

    past: int = 0
    """The row behind the last one that is in the table."""
    told: int = 0
    """The same, as the table tells it; 0 where a recorder that came late has not brought any."""
    rows: int = 0
    """Rows that this process brought."""
    missed: int = 0
    """Rows that the frame dropped before they were read."""
    unstorable: int = 0
    """Rows with a value that the table cannot hold: they were left out."""
    commits: int = 0

    @property
    def stored(self) -> int:
        """Rows in the table."""
        return self.past - self.missed - self.unstorable


class RecorderState(msgspec.Struct):
    """How far a run is recorded."""

    store: str
    pid: int = 0
    frames: dict[str, Recorded] = {}
    trouble: str = ""
    """Why nothing is recorded at the moment."""
    finished: bool = False
    """Whether the run is over and all of it is in the store."""

    @property
    def rows(self) -> int:
        """Rows in the store, of all frames."""
        return sum(frame.stored for frame in self.frames.values())

    @property
    def missed(self) -> int:
        return sum(frame.missed for frame in self.frames.values())

    @property
    def unstorable(self) -> int:
        return sum(frame.unstorable for frame in self.frames.values())

    @property
    def commits(self) -> int:
        return sum(frame.commits for frame in self.frames.values())


def read(run: Path) -> RecorderState | None:
    """What the recorder of a run has told last; None if there was none."""
    try:
        return msgspec.json.decode((run / "recorder.json").read_bytes(), type=RecorderState)
    except FileNotFoundError:
        return None


def write(run: Path, state: RecorderState) -> None:
    """Tell. A reader finds the former state or the new one, whole."""
    new = run / "recorder.json.new"
    new.write_bytes(msgspec.json.encode(state))
    new.rename(run / "recorder.json")


class RecorderLock:
    """Held by the one recorder of a run. Raises `ConfigError` where there is one."""

    def __init__(self, run: Path) -> None:
        self._descriptor = os.open(run / "recorder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise ConfigError(f"run {run.name} is already being recorded") from None

    def __enter__(self) -> RecorderLock:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
