"""What the system does not allow is one sentence and the right exit code, before anything starts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mdstream.errors import Exit, NoSpaceError
from mdstream.feed.process import _wait_for_room
from mdstream.handoff.space import create_file
from tests.running import HANGING_S, simulator, tmpfs

RUN = ("run", "--streams", "crypto", "--duration", "1", "--plain")
BACKFILL = ("backfill", "stocks.bars", "--symbols", "AAPL", "--start", "2026-01-05", "--end", "2026-01-06")


def run_in(shell: str, *command: str, **env: str) -> tuple[int, list[str]]:
    """Run a command after `shell`, in a mount namespace; return its exit code and its lines."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("a mount namespace needs root")
    script = f'{shell} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "mdstream", *command],
        capture_output=True,
        text=True,
        timeout=HANGING_S,
        env={**os.environ, **env},
        check=False,
    )
    if done.returncode == 32:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr}")
    return done.returncode, (done.stdout + done.stderr).splitlines()


SHM = {"MDSTREAM_FRAMES__DIRECTORY": "/dev/shm"}


@pytest.mark.cases("M4")
@pytest.mark.parametrize(
    ("shell", "code", "sentence"),
    [
        ("mount -t tmpfs -o size=200m,ro tmpfs /dev/shm", 4, "cannot create a run under /dev/shm"),
        ("mount -t tmpfs -o size=200m,nr_inodes=1 tmpfs /dev/shm", 4, "all its inodes are in use"),
        ("mount -t tmpfs -o size=200m,nr_inodes=60 tmpfs /dev/shm", 4, "mount it with a larger nr_inodes"),
        ("ulimit -n 64", 2, "only 64 files may be open in a process, and 256 are needed: raise the limit"),
    ],
    ids=["read-only", "no inode", "few inodes", "few open files"],
)
def test_a_run_that_cannot_start_says_why_in_one_sentence(shell: str, code: int, sentence: str) -> None:
    returned, lines = run_in(shell, *RUN, **SHM)
    assert returned == code
    assert sentence in lines[-1]
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.cases("M4")
@pytest.mark.parametrize(
    ("shell", "what"),
    [
        ("mount -t tmpfs -o size=200m,ro tmpfs /dev/shm", "semaphores"),
        ("mount -t tmpfs -o size=200m,nr_inodes=60 tmpfs /dev/shm", "larger nr_inodes"),
        ("ulimit -n 64", "open files"),
    ],
)
def test_doctor_finds_what_keeps_a_run_from_starting(shell: str, what: str) -> None:
    returned, lines = run_in(shell, "doctor", "--offline", **SHM)
    assert returned == Exit.STREAM_FAILED
    assert [line for line in lines if line.startswith(" bad") and what in " ".join(lines)]


@pytest.mark.cases("M4")
def test_a_run_elsewhere_says_that_its_workers_need_dev_shm(tmp_path: Path) -> None:
    returned, lines = run_in(
        "mount -t tmpfs -o ro tmpfs /dev/shm", *RUN, MDSTREAM_FRAMES__DIRECTORY=str(tmp_path)
    )
    assert returned == Exit.SHARED_MEMORY
    assert "no semaphores can be created in /dev/shm (Read-only file system)" in lines[-1]
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.cases("M4")
def test_a_backfill_that_cannot_start_says_why_in_one_sentence(tmp_path: Path) -> None:
    with simulator() as sim:
        for number, (shell, code, sentence) in enumerate(
            [
                ("mount -t tmpfs -o ro tmpfs /dev/shm", 4, "no semaphores can be created in /dev/shm"),
                ("ulimit -n 32", 2, "only 32 files may be open in a process, and 48 are needed"),
            ]
        ):
            store = ("--store", str(tmp_path / str(number)))
            returned, lines = run_in(shell, *BACKFILL, *store, MDSTREAM_DATA_URL=sim.data_url)
            assert (returned, sentence in lines[-1]) == (code, True), lines
            assert not [line for line in lines if "Traceback" in line]


@pytest.mark.cases("M4")
def test_a_low_limit_that_may_be_raised_is_raised(tmp_path: Path) -> None:
    code = "from mdstream.system import resources as r; r.allow_files(256); print(r.resource.getrlimit(7)[0] > 256)"
    done = subprocess.run(
        ["sh", "-c", 'ulimit -S -n 64 && exec "$@"', "sh", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


@pytest.mark.cases("M4")
def test_a_feed_that_starts_without_room_waits_for_it(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "shm", 8, inodes=50) as folder:
        fillers = [folder / f"filler-{number}" for number in range(60)]
        with pytest.raises(OSError, match="No space"):
            for filler in fillers:
                filler.touch()
        threading.Timer(0.6, fillers[0].unlink).start()
        os.close(asyncio.run(_wait_for_room(lambda: create_file(folder / "made", 1))))
        assert (folder / "made").exists()


def test_a_feed_does_not_wait_for_room_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdstream.feed.process.FULL_S", 0.3)

    def fail() -> None:
        raise NoSpaceError("/x", 1, 0)

    with pytest.raises(NoSpaceError):
        asyncio.run(_wait_for_room(fail))
