"""Files that remain when all processes of a pool are killed at once, so that none of them can clean up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mdstream.pool import ipc_names
from tests.running import HANGING_S, until

OWNER = """
import asyncio, sys, uvloop
from mdstream.pool import ipc_names
from mdstream.pool.pool import WorkerPool
async def go():
    pool = WorkerPool(2, 60.0)
    await pool.start(bars=False)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await pool.close()
if __name__ == "__main__":
    ipc_names.claim()
    uvloop.run(go())
"""


USERS = OWNER.replace("ipc_names.claim()", "ipc_names.reap()")
"""A program of a user with a pool, as one that calls `mdstream.backfill`."""


def find_nameless() -> set[Path]:
    """Return the files that `multiprocessing` names by chance."""
    return {*Path("/dev/shm").glob("sem.mp-*"), *Path(tempfile.gettempdir()).glob("pymp-*")}


def find_files(pid: int) -> list[Path]:
    """Return the semaphores and sockets of a process, found by its id in their names."""
    sockets = Path(tempfile.gettempdir()).glob(f"mdstream-ipc-*-{pid}")
    return [*sockets, *Path("/dev/shm").glob(f"sem.mdstream-*-{pid}-*")]


def start_process(owner: str = OWNER, **environment: str) -> subprocess.Popen[bytes]:
    """Start a process with a ready pool. It ends when its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", owner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert len(find_files(process.pid)) > 1, "the process has sockets and semaphores"
    return process


@pytest.mark.cases("N9")
@pytest.mark.parametrize("owner", [OWNER, USERS], ids=["ours", "a user's"])
def test_what_a_killed_family_left_is_removed_by_the_next_to_start(owner: str) -> None:
    before = find_nameless()
    with start_process(owner) as process:
        os.killpg(process.pid, signal.SIGKILL)
    assert find_files(process.pid)
    ipc_names.reap()
    assert not find_files(process.pid)
    assert find_nameless() <= before, "no other file is left"


@pytest.mark.cases("N9")
def test_a_pool_leaves_the_names_of_its_users_other_processes_alone() -> None:
    code = """
import multiprocessing, os
from mdstream.pool import ipc_names
config = multiprocessing.current_process()._config
before = dict(config)
with ipc_names.claim_names():
    assert config["semprefix"].startswith("/mdstream-"), config
    assert "mdstream-ipc-" in config["tempdir"], config
assert config["semprefix"] == before["semprefix"] == "/mp", config
assert config.get("tempdir") is None, config
config["semprefix"] = "/own"
with ipc_names.claim_names():
    assert config["semprefix"] == "/own", config
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_living_process_uses_is_left_alone_and_goes_with_it() -> None:
    with start_process() as process:
        before = find_files(process.pid)
        ipc_names.reap()
        assert find_files(process.pid) == before
    assert process.returncode == 0
    until(lambda: not find_files(process.pid))


def test_a_temporary_folder_with_a_long_name_is_no_obstacle(tmp_path: Path) -> None:
    room = 107 - len("/pymp-12345678/listener-12345678")
    folder = tmp_path / ("x" * (room - len(str(tmp_path)) - 1))
    folder.mkdir()
    with start_process(TMPDIR=str(folder)) as process:
        pass
    assert process.returncode == 0
    assert not list(folder.iterdir())


PREPARED = """
import multiprocessing, os, tempfile
from pathlib import Path
from mdstream.pool import ipc_names
trap = Path(os.environ["TRAP"])
guessed = Path(tempfile.gettempdir(), f"mdstream-ipc-{os.getuid()}-{os.getpid()}")
if os.environ["KIND"] == "link":
    guessed.symlink_to(trap)
else:
    guessed.mkdir()
    guessed.chmod(0o777)
ipc_names.claim()
used = Path(multiprocessing.current_process()._config["tempdir"])
assert guessed not in (used, *used.parents), used
assert guessed.name not in used.name
found = os.lstat(used)
assert (found.st_mode & 0o7777, found.st_uid) == (0o700, os.getuid()), found
with ipc_names.claim_names():
    assert multiprocessing.current_process()._config["tempdir"] == str(used)
used.rename(used.with_name("moved"))
used.symlink_to(trap)
ipc_names.claim()
again = Path(multiprocessing.current_process()._config["tempdir"])
assert again != used and again.is_dir(), "the folder was replaced, so another one is made"
assert not list(trap.iterdir())
"""


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_sockets_are_never_in_a_folder_that_somebody_else_prepared(kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # the name of `tmp_path` is too long for a socket
        trap = Path(folder, "trap")
        trap.mkdir()
        environment = {"TMPDIR": folder, "TRAP": str(trap), "KIND": kind}
        subprocess.run([sys.executable, "-c", PREPARED], check=True, env=os.environ | environment)


def test_a_folder_that_others_can_write_is_not_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    owner = f"mdstream-ipc-{os.getuid()}-x-{os.getpid()}"
    folder, link = tmp_path / owner, tmp_path / owner.replace("-x-", "-y-")
    folder.mkdir()
    folder.chmod(0o777)
    link.symlink_to(folder)
    ipc_names.reap()
    assert folder.is_dir()
    assert link.is_symlink()
    link.unlink()
    folder.chmod(0o700)
    ipc_names.reap()
    assert not folder.exists()


TRACKER_KILLED = OWNER.replace(
    """    await pool.close()
""",
    """    from multiprocessing import resource_tracker
    import os, signal
    os.kill(resource_tracker._resource_tracker._pid, signal.SIGKILL)
    await pool.close()
""",
)


def test_semaphores_are_removed_without_a_traceback_after_their_tracker_was_killed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore:resource_tracker:UserWarning", "-c", TRACKER_KILLED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, errors = process.communicate("\n", HANGING_S)
    assert (process.returncode, out, errors) == (0, "ready\n", "")
    assert not list(Path("/dev/shm").glob(f"sem.mdstream-{os.getuid()}-{process.pid}-*"))
