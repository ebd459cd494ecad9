"""Supervision of the recorder's process: start, watch, restart.

Unlike a feed, it outlives a killed supervisor: it records the remaining rows and removes the run's folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil

from mdstream.config import StoreConfig
from mdstream.frames import rundir
from mdstream.pool.early import ARROW_ALLOCATOR
from mdstream.recording import recorder_state
from mdstream.recording.recorder_state import RecorderState
from mdstream.session.retry import HEALTHY_S, backoff
from mdstream.system import children
from mdstream.system.clock import Awake
from mdstream.system.shared_places import open_new

_SETTINGS = StoreConfig.__struct_fields__
_POLL_S = 0.1
_GIVE_UP_S = 10.0
_REPORT_AFTER_S = 3.0
"""How long the end of a run waits for its recorder before it logs that it waits."""


class RecorderProcess:
    """Runs the recorder of one run. `note` is called with the text and log level of each event."""

    # The current process, written when one starts or dies.
    _process: subprocess.Popen[bytes]
    _started: float
    """When it started, on the monotonic clock."""
    _restart_at: float | None
    """When the next one is due, on the monotonic clock; None while one runs."""
    _pauses: Iterator[float]

    # What was reported last, written by `check`.
    _trouble: str

    def __init__(self, run: Path, store: StoreConfig, note: Callable[[str, int], None]) -> None:
        self._run = run
        self._store = store
        self._note = note
        self._trouble = ""
        self._pauses = backoff()
        self._start()

    @property
    def state(self) -> RecorderState:
        """The last state that the recorder has written."""
        return recorder_state.read(self._run) or RecorderState(self._store.path)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Process ids of the recorder and its workers."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            return [process.pid, *(child.pid for child in process.children(recursive=True))]
        return []

    def check(self) -> None:
        """Restart the recorder if it died, and report what keeps it from recording."""
        now = time.monotonic()
        if self._restart_at is not None:
            if now >= self._restart_at:
                self._start()
        elif self._process.poll() is not None and not self.state.finished:
            if now - self._started > HEALTHY_S:
                self._pauses = backoff()
            pause = next(self._pauses)
            self._note(
                f"recorder died ({self._exit_reason()}); restarting it in {pause:.1f} s", logging.WARNING
            )
            self._restart_at = now + pause
        trouble = self.state.trouble
        if trouble != self._trouble:
            self._trouble = trouble
            self._note(trouble or "recording resumed", logging.WARNING if trouble else logging.INFO)

    def finish(self, timeout_s: float, is_aborted: Callable[[], bool]) -> bool:
        """Wait until all rows are stored, or none are for `timeout_s`. Return whether all are."""
        awake = Awake()
        rows, moved = self.state.rows, awake.now()
        report_at = moved + _REPORT_AFTER_S
        while not self.state.finished and not is_aborted():
            self.check()
            if awake.now() >= report_at:
                report_at += timeout_s
                why = f" ({self._trouble})" if self._trouble else ""
                self._note(f"waiting until the rest is recorded{why}", logging.INFO)
            if self.state.rows != rows:
                rows, moved = self.state.rows, awake.now()
            if awake.now() - moved > timeout_s:
                break
            time.sleep(_POLL_S)
        if self.state.finished:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        return self.state.finished

    def give_up(self) -> None:
        """Wait until the recorder of a removed run has noticed that it has nothing to do; else kill it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GIVE_UP_S)
        for pid in self.pids if self._process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _start(self) -> None:
        self._process = start(self._run, self._store)
        self._started, self._restart_at = time.monotonic(), None

    def _exit_reason(self) -> str:
        """Return the signal that killed it, or the last line of its log."""
        code = self._process.returncode
        if code is not None and code < 0:
            return f"killed by signal {-code}"
        try:
            lines = (self._run / "recorder.log").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        lines = [line for line in lines if line.strip() and not line.startswith("note: ")]
        return lines[-1][-200:] if lines else f"exit code {code}"


def start(run: Path, store: StoreConfig) -> subprocess.Popen[bytes]:
    """Start a recorder of run folder `run`, whether or not its engine is alive."""
    settings = {f"MDSTREAM_STORE__{name.upper()}": str(getattr(store, name)) for name in _SETTINGS}
    command = children.python("-m", "mdstream", "record", "--run", str(run), "--quiet")
    with open(open_new(run, "recorder.log"), "wb") as log, children.import_safely():
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**_environment(), **settings},
            start_new_session=True,
        )


def _environment() -> dict[str, str]:
    """Return this process's environment with Arrow's own allocator: a recorder allocates much with it."""
    return {name: value for name, value in os.environ.items() if name != ARROW_ALLOCATOR}


def start_for_dead_runs(root: Path | None, store: StoreConfig) -> list[Path]:
    """Start a recorder for each dead run with unrecorded rows. Return the folders of these runs."""
    found = []
    for run, path in rundir.find_unrecorded(root).items():
        if not rundir.has_recorder(run):
            start(run, msgspec.structs.replace(store, path=path))
            found.append(run)
    return found
