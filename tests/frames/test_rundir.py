from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdstream.errors import NoRunError, SharedMemoryError
from mdstream.frames.rundir import RunDirectory, find, is_alive, list_runs, reap
from mdstream.reading.attach import attach


def test_a_run_is_found_while_it_runs_and_gone_afterwards(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as directory:
        directory.describe(streams=["stocks"])
        assert is_alive(directory.path)
        assert find(root=tmp_path) == directory.path
        assert find(directory.run, tmp_path) == directory.path
        assert attach(directory=tmp_path).run == directory.run
        assert directory.path.stat().st_mode & 0o777 == 0o700
    assert not directory.path.exists()
    with pytest.raises(NoRunError, match="start one with `mdstream run`"):
        find(root=tmp_path)


def test_what_a_killed_run_left_is_reaped_and_living_runs_are_not(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from mdstream.frames.rundir import RunDirectory;"
        f"d = RunDirectory(Path({str(tmp_path)!r})); d.describe(); print(d.run, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    with RunDirectory(tmp_path) as ours:
        assert reap(tmp_path) == []
        process.kill()
        process.wait()
        process.stdout.close()
        with pytest.raises(NoRunError, match="is dead"):
            find(name, tmp_path)
        [dead] = reap(tmp_path)
        assert dead.name.endswith(name)
        assert list_runs(tmp_path) == [ours.path]


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SharedMemoryError, match="cannot create a run under"):
        RunDirectory(tmp_path / "missing" / "\0".replace("\0", "x") / ("y" * 300))


def test_reaping_waits_a_moment_for_runs_that_are_just_being_made(tmp_path: Path) -> None:
    import os

    half = tmp_path / f".mdstream-{os.getuid()}-x"
    half.mkdir()
    (half / "owner.lock").touch()
    assert reap(tmp_path) == []
    old = time.time() - 120
    os.utime(half, (old, old))
    assert reap(tmp_path) == [half]


def test_the_newest_run_is_found_also_when_clocks_are_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        made = []
        for minutes in (0, 20):  # 1:50 in summer time, and 1:10 in winter time
            moment = 1_793_512_200 + minutes * 60
            monkeypatch.setattr(time, "time_ns", lambda moment=moment: moment * 1_000_000_000)
            made.append(RunDirectory(tmp_path))
        assert find(root=tmp_path) == made[1].path
        for run in made:
            run.close()
    finally:
        monkeypatch.undo()
        time.tzset()
