"""The recorder as the supervisor sees it: a process of its own, started again when it dies.

It is no child like the feeds: it outlives a supervisor that is killed, records what is left, and removes
the run's folder when it is done.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from mdstream.config import StoreConfig
from mdstream.frames import rundir
from mdstream.recording import state
from mdstream.recording.state import RecorderState
from mdstream.session.retry import backoff

_LOOK_S = 0.1
_TELL_S = 3.0
"""After which it is told that the end of a run waits for its recorder."""


class RecorderProcess:
    """The recorder of one run. `note` is told what happens, with its level of logging."""

    # The mutable state: the process, when a new one is due after it died, what was told last.

    def __init__(self, run: Path, store: StoreConfig, note: Callable[[str, int], None]) -> None:
        self._run = run
        self._store = store
        self._note = note
        self._trouble = ""
        self._pauses: Iterator[float] = backoff()
        self._restart_at: float | None = None
        self._process = self._start()

    @property
    def state(self) -> RecorderState:
        """What it has told last."""
        return state.read(self._run) or RecorderState(self._store.path)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Its process and those of its workers."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            return [process.pid, *(child.pid for child in process.children(recursive=True))]
        return []

    def check(self) -> None:
        """Start it again if it died, and pass on what troubles it."""
        now = time.monotonic()
        if self._restart_at is not None:
            if now >= self._restart_at:
                self._restart_at = None
                self._process = self._start()
        elif self._process.poll() is not None and not self.state.finished:
            pause = next(self._pauses)
            self._note(f"recorder died ({self._last_words()}); starting it again", 30)
            self._restart_at = now + pause
        trouble = self.state.trouble
        if trouble != self._trouble:
            self._trouble = trouble
            self._note(trouble or "recording goes on", 30 if trouble else 20)

    def finish(self, patience_s: float, is_aborted: Callable[[], bool]) -> bool:
        """Wait, as long as that makes progress, until all of the run is in the store; whether it is."""
        rows, moved = self.state.rows, time.monotonic()
        told_at = moved + _TELL_S
        while not self.state.finished and not is_aborted():
            self.check()
            if time.monotonic() >= told_at:
                told_at += patience_s
                why = f" ({self._trouble})" if self._trouble else ""
                self._note(f"waiting for what is left to be recorded{why}", 20)
            if self.state.rows != rows:
                rows, moved = self.state.rows, time.monotonic()
            if time.monotonic() - moved > patience_s:
                break
            time.sleep(_LOOK_S)
        if self.state.finished:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
        return self.state.finished

    def _start(self) -> subprocess.Popen[bytes]:
        return start(self._run, self._store)

    def _last_words(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            return f"killed by signal {-code}"
        try:
            said = (self._run / "recorder.log").read_text(errors="replace").splitlines()
        except OSError:
            said = []
        words = [line for line in said if line.strip() and not line.startswith("note: ")]
        return words[-1][-200:] if words else f"exit code {code}"


def start(run: Path, store: StoreConfig) -> subprocess.Popen[bytes]:
    """Start a recorder of a run, whether its engine lives or not."""
    settings = {f"MDSTREAM_STORE__{name.upper()}": str(getattr(store, name)) for name in _SETTINGS}
    command = [sys.executable, "-m", "mdstream", "record", "--run", str(run), "--quiet"]
    with (run / "recorder.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, **settings},
            start_new_session=True,
        )


def start_for_dead_runs(root: Path | None, store: StoreConfig) -> list[Path]:
    """Have what dead runs left unrecorded recorded in the background; which runs these are."""
    import msgspec

    found = []
    for run, path in rundir.unrecorded(root).items():
        if not rundir.has_recorder(run):
            start(run, msgspec.structs.replace(store, path=path))
            found.append(run)
    return found


_SETTINGS = StoreConfig.__struct_fields__
