"""A run on a machine without compiled decoders: it streams at once, and switches to them later."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from mdstream.frames import rundir
from mdstream.pool import ipc_names
from tests.commands import logged, now, run_of, started, stopped
from tests.running import HANGING_S, until
from workers.kernels import kept

LONGEST = ("--duration", "90")  # a line that never comes must not block a test for ever
BEGINS = "Until then, the slower fallback decoder decodes"
SWITCHED = "the compiled decoders are in use from now on"
FAILED = "no compiled decoders"


def make_cache(folder: Path, without: str = "") -> Path:
    """Copy the compiled kernels, but not the mark that they are complete; return the copy.

    So they are compiled in a moment. The kernels whose file begins with `without` take longer.
    """
    assert kept.CACHE is not None
    copy = folder / "mdstream" / kept.CACHE.name
    shutil.copytree(kept.CACHE, copy)
    (copy / "complete").unlink()
    for path in copy.glob(f"{without}*.nb?") if without else ():
        path.unlink()
    for path in (copy, copy.parent):
        path.chmod(0o700)
    return copy


def find_compiler(engine: subprocess.Popen[str]) -> psutil.Process:
    """Return the process that compiles for an engine."""
    found: list[psutil.Process] = []

    def find() -> bool:  # its command line is empty for a moment
        found[:] = [p for p in psutil.Process(engine.pid).children() if "workers.warm" in p.cmdline()]
        return bool(found)

    until(find)
    return found[0]


def count(log: str, text: str) -> int:
    return sum(text in line for line in log.splitlines())


@pytest.mark.parametrize("workers", ["0", "2"])
def test_all_streams_switch_to_the_decoders_once_they_are_compiled(tmp_path: Path, workers: str) -> None:
    make_cache(tmp_path)
    report = tmp_path / "report.json"
    arguments = ("--streams", "stocks,crypto", "--workers", workers, "--report", str(report))
    with started(*arguments, *LONGEST, env={"NUMBA_CACHE_DIR": str(tmp_path)}) as process:
        log = logged(process, SWITCHED)
        run = run_of(process)
        events = run.frame("telemetry.events").select("kind", "stream").rows()
        assert sorted(stream for kind, stream in events if kind == "kernels") == ["crypto", "stocks"]
        before = now(run)["messages"].min()
        until(lambda: now(run)["messages"].min() > before)
        log += stopped(process)[1]
    assert process.returncode == 0, log
    # On a slow machine, a compilation beside the run may leave too little for its workers.
    warnings = count(log, "WARNING") - count(log, "overloaded: the oldest of")
    assert (count(log, BEGINS), count(log, SWITCHED), warnings) == (1, 1, 0), log
    for stream in json.loads(report.read_text())["streams"].values():
        assert stream["committed"] == stream["messages"] > 0
        assert stream["restarts"] == 0


def test_a_compiler_that_is_killed_costs_the_run_only_its_speed(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, "direct.decode")
    with started("--streams", "stocks", *LONGEST, env={"NUMBA_CACHE_DIR": str(tmp_path)}) as process:
        log = logged(process, BEGINS)
        compiler = find_compiler(process)
        until(lambda: compiler.nice() > 0)
        compiler.kill()
        log += logged(process, FAILED)
        run = run_of(process)
        before = now(run)["messages"].min()
        until(lambda: now(run)["messages"].min() > before + 100)
        log += stopped(process)[1]
    assert process.returncode == 0, log
    [line] = [line for line in log.splitlines() if "WARNING" in line]
    assert "was killed by signal 9" in line or "SIGKILL" in line
    assert count(log, SWITCHED) == 0
    assert not (folder / "complete").exists()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_the_compiler_ends_with_the_run(tmp_path: Path, by: signal.Signals) -> None:
    make_cache(tmp_path, "direct.decode")
    with started("--streams", "news", *LONGEST, env={"NUMBA_CACHE_DIR": str(tmp_path)}) as process:
        logged(process, BEGINS)
        compiler = find_compiler(process)
        process.send_signal(by)
        until(lambda: not compiler.is_running() or compiler.status() == psutil.STATUS_ZOMBIE)
        process.wait(HANGING_S)
    if by is signal.SIGKILL:  # what the next start removes
        until(rundir.reap)
        ipc_names.reap()


def test_a_feed_that_is_killed_after_the_switch_has_the_decoders(tmp_path: Path) -> None:
    make_cache(tmp_path)
    with started("--streams", "stocks", *LONGEST, env={"NUMBA_CACHE_DIR": str(tmp_path)}) as process:
        logged(process, SWITCHED)
        run = run_of(process)
        os.kill(int(now(run)["pid"][0]), signal.SIGKILL)
        until(lambda: "restarted" in run.frame("telemetry.events")["kind"].to_list())
        until(lambda: run.frame("telemetry.events")["kind"].to_list().count("kernels") == 2)
        assert stopped(process)[1].count("WARNING") == 1
    assert process.returncode == 0
