"""What a whole family of processes leaves that is killed at once: nobody of it is there to tidy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from mdstream.pool import ipc
from tests.running import until

OWNER = """
import asyncio, sys, uvloop
from mdstream.pool import ipc
from mdstream.pool.pool import WorkerPool
async def go():
    pool = WorkerPool(2, 60.0)
    await pool.start(bars=False)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await pool.close()
if __name__ == "__main__":
    ipc.claim()
    uvloop.run(go())
"""


def named_after(pid: int) -> list[Path]:
    """Semaphores and sockets that bear the name of a process."""
    sockets = Path(tempfile.gettempdir()).glob(f"mdstream-ipc-*-{pid}")
    return [*sockets, *Path("/dev/shm").glob(f"sem.mdstream-*-{pid}-*")]


def started(**environment: str) -> subprocess.Popen[bytes]:
    """A process with a pool, which has just come up, and ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert len(named_after(process.pid)) > 1, "sockets, and more than one semaphore"
    return process


def test_what_a_killed_family_left_is_removed_by_the_next_to_start() -> None:
    with started() as process:
        os.killpg(process.pid, signal.SIGKILL)
    assert named_after(process.pid)
    ipc.reap()
    assert not named_after(process.pid)


def test_what_a_living_process_uses_is_left_alone_and_goes_with_it() -> None:
    with started() as process:
        before = named_after(process.pid)
        ipc.reap()
        assert named_after(process.pid) == before
    assert process.returncode == 0
    until(lambda: not named_after(process.pid))


def test_a_temporary_folder_with_a_long_name_is_no_obstacle(tmp_path: Path) -> None:
    room = 107 - len("/pymp-12345678/listener-12345678")
    folder = tmp_path / ("x" * (room - len(str(tmp_path)) - 1))
    folder.mkdir()
    with started(TMPDIR=str(folder)) as process:
        pass
    assert process.returncode == 0
    assert not list(folder.iterdir())
