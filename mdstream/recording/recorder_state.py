"""State and lock of a recorder, in the folder of its run: `recorder.json` and `recorder.lock`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mdstream.errors import ConfigError
from mdstream.handoff.record_ticket import Lost, RecordReceipt


class Recorded(msgspec.Struct):
    """How far a frame is recorded."""

    past: int = 0
    """Number of the row after the last one that is in the table."""
    table_past: int = 0
    """The same, as the table says; 0 before this run's first commit to it."""
    rows: int = 0
    """Rows that this process stored."""
    missed: int = 0
    """Rows that the frame dropped before they were read, or after a table with them was removed."""
    unstorable: int = 0
    """Rows that are in `<stream>.rejects` instead, because the table refuses them."""
    commits: int = 0
    """Commits of this recorder, and of earlier ones of the run."""
    begin: int = 0
    """Number of the first row to record: a late recorder begins with the oldest that is kept."""

    @property
    def lost(self) -> Lost:
        """What the table lacks of the rows before `past`."""
        return Lost(self.begin, self.missed, self.unstorable)

    @lost.setter
    def lost(self, lost: Lost) -> None:
        self.begin, self.missed, self.unstorable = lost

    @property
    def stored(self) -> int:
        """Rows in the table."""
        return self.past - self.begin - self.missed - self.unstorable


class RecorderState(msgspec.Struct):
    """How far a run is recorded."""

    store: str
    pid: int = 0
    frames: dict[str, Recorded] = {}
    trouble: str = ""
    """Why recording does not proceed; empty if it does."""
    finished: bool = False
    """Whether the run has ended and all its rows are in the store."""

    @property
    def rows(self) -> int:
        """Rows of all frames in the store."""
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
    """Return the last state that the recorder of a run has written; None if there was none."""
    try:
        return msgspec.json.decode((run / "recorder.json").read_bytes(), type=RecorderState)
    except FileNotFoundError:
        return None


def read_frames(run: Path, store: str) -> dict[str, Recorded]:
    """Return how far earlier recorders of a run have recorded its frames in `store`."""
    state = read(run)
    return state.frames if state is not None and state.store == store else {}


def resume(found: RecordReceipt, earlier: Recorded | None, first_row: int) -> Recorded:
    """Return where to continue a frame whose table is recorded as `found` says.

    A recorder that starts late begins with `first_row`, the oldest that is kept. If an `earlier` one has
    begun without a commit, the rows are missed that are no longer kept.
    """
    begin = first_row if earlier is None else earlier.begin
    known = Recorded(found.past or begin, found.past, begin=begin)
    if found.past:
        known.lost = found.lost
    known.commits = 0 if earlier is None else earlier.commits
    return known


def write(run: Path, state: RecorderState, earlier: Mapping[str, Recorded]) -> None:
    """Write the state, with what `earlier` recorders noted of frames that it does not have yet.

    A reader finds the previous state or the new one, never a mixture.
    """
    whole = msgspec.structs.replace(state, frames={**earlier, **state.frames})
    new = run / "recorder.json.new"
    new.write_bytes(msgspec.json.encode(whole))
    new.rename(run / "recorder.json")


class RecorderLock:
    """Lock that the only recorder of a run holds. Raises `ConfigError` if another one holds it."""

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
