"""`mdstream` as users start it: until its end, or in the background."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from mdstream.frames.rundir import list_runs
from mdstream.reading.attach import Attachment
from tests import warm
from tests.running import HANGING_S

MDSTREAM = [sys.executable, "-m", "mdstream"]
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("APCA_")}


def command(
    *arguments: str, env: dict[str, str] | None = None, anew: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end: as a copy of a warm process, or (`anew`) as a new one."""
    given = {**CLEAN, **(env or {})}
    if not anew:
        return warm.run("mdstream", *arguments, env=given, timeout=HANGING_S)
    return subprocess.run(
        [*MDSTREAM, *arguments], capture_output=True, text=True, timeout=HANGING_S, env=given, check=False
    )


@contextlib.contextmanager
def started(
    *arguments: str, env: dict[str, str] | None = None, anew: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run `mdstream run` in the background: as a copy of a warm process, or (`anew`) as a new one."""
    how: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": {**CLEAN, **(env or {})},
        "start_new_session": True,
    }
    if anew:
        # Under nohup, the tests' processes ignore this signal, and the engine would inherit that.
        how["preexec_fn"] = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)
        process = subprocess.Popen([*MDSTREAM, "run", *arguments], **how)
    else:
        process = warm.start("mdstream", "run", *arguments, **how)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=HANGING_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def streaming(process: subprocess.Popen[str], streams: int = 1) -> str:
    """Read log lines until `streams` streams are up; return the lines."""
    return "".join(logged(process, " streaming ") for _ in range(streams))


def logged(process: subprocess.Popen[str], text: str) -> str:
    """Read log lines up to one with `text`; return the lines."""
    assert process.stderr is not None
    lines = []
    while not lines or text not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], f"the engine ended early: {''.join(lines)}"
    return "".join(lines)


def run_of(process: subprocess.Popen[str], root: Path | None = None) -> Attachment:
    """Return the run of an engine that streams."""
    [path] = [path for path in list_runs(root) if path.name.endswith(f"-{process.pid}")]
    return Attachment(path)


def now(run: Attachment) -> pl.DataFrame:
    """Return the newest sample of each stream."""
    return run.frame("telemetry.streams").group_by("stream").last()


def stopped(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End a run as Ctrl-C does; return its output and the rest of its log."""
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=HANGING_S)
