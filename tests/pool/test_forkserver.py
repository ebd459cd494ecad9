"""Pools of several workers, forked from one process that has loaded everything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import uvloop

from mdstream.errors import WorkerError
from mdstream.pool import forkserver, ipc_names
from mdstream.pool.pool import WorkerPool, forkserver_modules
from tests.forking import end_fork_server, get_fork_context
from tests.running import HANGING_S, until


@pytest.fixture(autouse=True)
def first() -> None:
    """Nothing has a fork server yet."""
    end_fork_server()


def test_workers_are_forked_from_a_process_that_ends_with_the_last_pool() -> None:
    reported: list[tuple[list[int], int | None]] = []

    async def go() -> None:
        one, other = (
            WorkerPool(2, 60.0, on_change=lambda pids, pid: reported.append((pids, pid))) for _ in "ab"
        )
        await asyncio.gather(one.start(bars=False), other.start(bars=False))
        (pids, common), (others, again) = reported
        assert common == again == forkserver.pid()
        assert len({*pids, *others}) == 4
        assert {psutil.Process(pid).ppid() for pid in (*pids, *others)} == {common}
        await one.close()
        assert psutil.pid_exists(common or 0)
        await other.close()
        assert forkserver.pid() is None
        until(lambda: not psutil.pid_exists(common or 0))

    uvloop.run(go())


def test_a_process_that_was_killed_while_it_asked_for_a_child_does_not_end_the_fork_server() -> None:
    context = forkserver.take()
    try:
        forkserver.wait_until_loaded(context, HANGING_S)
        pid = forkserver.pid()
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(forkserver._server._forkserver_address)
        process = context.Process(target=os._exit, args=(7,))  # type: ignore[attr-defined]
        process.start()
        process.join(HANGING_S)
        assert process.exitcode == 7
        assert forkserver.pid() == pid
    finally:
        forkserver.leave()


def test_a_fork_server_that_is_killed_is_replaced() -> None:
    async def go() -> None:
        pool = WorkerPool(2, 60.0)
        await pool.start(bars=False)
        pid = forkserver.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.kill(pool.pids[0], signal.SIGKILL)
        # The executor learns of it in its own time; until then the worker that is left does the work.
        async with asyncio.timeout(HANGING_S):
            while not pool.rebuilds or forkserver.pid() in (None, pid):
                with contextlib.suppress(FileNotFoundError):
                    await pool.compress(Path("/nowhere"))
                await asyncio.sleep(0.01)
        # More than one, if it was asked to start them before it was noticed to be dead.
        assert 1 <= pool.rebuilds <= 3
        with pytest.raises(FileNotFoundError):
            await pool.compress(Path("/nowhere"))
        await pool.close()

    uvloop.run(go())


def test_the_loop_goes_on_while_a_new_fork_server_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one loads a module that waits for a file, which only this loop can make."""
    (tmp_path / "slow_to_load.py").write_text(
        "import os, time\nwhile not os.path.exists(os.environ['LOADED']):\n    time.sleep(0.01)\n"
    )
    loaded = tmp_path / "loaded"
    monkeypatch.setenv("LOADED", str(loaded))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def go() -> None:
        pool = WorkerPool(2, 60.0)
        await pool.start(bars=False)
        pid = forkserver.pid()
        assert pid is not None
        forkserver.take(*forkserver_modules("slow_to_load"))
        os.kill(pid, signal.SIGKILL)
        for worker in pool.pids:
            os.kill(worker, signal.SIGKILL)
        async with asyncio.timeout(HANGING_S):
            while forkserver.pid() in (None, pid):
                with contextlib.suppress(FileNotFoundError, TimeoutError, WorkerError):
                    await asyncio.wait_for(pool.compress(Path("/nowhere")), 0.1)
                await asyncio.sleep(0.01)
        loaded.touch()
        with pytest.raises(FileNotFoundError):
            await pool.compress(Path("/nowhere"))
        forkserver.leave()
        await pool.close()

    uvloop.run(go())


def test_workers_forked_from_a_fork_server_die_with_their_feed() -> None:
    code = (
        "import asyncio, uvloop\n"
        "from mdstream.pool import ipc_names\n"
        "from mdstream.pool.pool import WorkerPool\n"
        "async def go():\n"
        "    pool = WorkerPool(2, 60.0)\n"
        "    await pool.start(bars=False)\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    ipc_names.claim()\n"
        "    uvloop.run(go())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as feed:
        assert feed.stdout is not None
        assert feed.stdout.readline() == b"ready\n"
        children = psutil.Process(feed.pid).children(recursive=True)
        assert len(children) >= 4
        feed.kill()
    until(lambda: not any(c.is_running() and c.status() != "zombie" for c in children))
    ipc_names.reap()


def adapt(pipe: Connection) -> None:
    """Be a feed without workers, forked from a fork server, that gets two of them late."""
    ipc_names.claim()
    forkserver.share()

    async def go() -> None:
        pool = WorkerPool(0, 60.0, most=2, on_change=lambda pids, server: pipe.send((pids, server)))
        await pool.start(bars=False)
        while (size := await asyncio.to_thread(pipe.recv)) is not None:
            await pool.resize(size)
            pipe.send("done")
        await pool.close()

    uvloop.run(go())


def start_adapting() -> tuple[BaseProcess, Connection]:
    context = get_fork_context()
    ours, theirs = context.Pipe()
    feed = context.Process(target=adapt, args=(theirs,))  # type: ignore[attr-defined]
    feed.start()
    theirs.close()
    return feed, ours


def resize(pipe: Connection, size: int) -> tuple[list[int], int | None]:
    """Let the feed get `size` workers; return the ids of its processes, and that of its own server."""
    pipe.send(size)
    processes: tuple[list[int], int | None] = [], None
    while (message := pipe.recv()) != "done":
        processes = message
    return processes


def test_a_feed_without_workers_gets_them_from_the_process_that_it_was_forked_from() -> None:
    feed, pipe = start_adapting()
    assert feed.pid is not None
    assert psutil.Process(feed.pid).children() == [], "nothing runs before it is needed"
    pids, server = resize(pipe, 2)
    assert server is None, "it has no fork server of its own"
    assert {psutil.Process(pid).ppid() for pid in pids} == {forkserver.pid()}
    resize(pipe, 0)
    until(lambda: not any(map(psutil.pid_exists, pids)))
    pipe.send(None)
    feed.join(HANGING_S)
    assert feed.exitcode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_beside_their_feed_end_with_it(number: int) -> None:
    feed, pipe = start_adapting()
    pids, _ = resize(pipe, 2)
    assert feed.pid is not None
    os.kill(feed.pid, number)
    until(lambda: not any(map(psutil.pid_exists, pids)))
    feed.join(HANGING_S)
    ipc_names.reap()


def test_a_feed_whose_fork_server_was_killed_starts_its_own() -> None:
    feed, pipe = start_adapting()
    first, _ = resize(pipe, 1)
    shared = forkserver.pid()
    assert shared is not None
    os.kill(shared, signal.SIGKILL)
    until(lambda: psutil.Process(feed.pid).ppid() != shared)
    pids, server = resize(pipe, 2)
    assert server not in (None, shared)
    assert {psutil.Process(pid).ppid() for pid in pids if pid not in first} == {server}
    pipe.send(None)
    feed.join(HANGING_S)
    until(lambda: not any(map(psutil.pid_exists, [*first, *pids])))
    ipc_names.reap()
