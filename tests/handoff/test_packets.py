"""Objects that a feed and its workers send to each other."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import uvloop

from mdstream.errors import NoSpaceError, WorkerError
from mdstream.handoff import packets
from mdstream.pool.crew import Crew
from tests.forking import get_fork_context
from tests.running import HANGING_S, until
from workers import boot


def echo(item: Any) -> Any:
    return item


def slow(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def meet(folder: Path, others: int) -> int:
    """Wait until the folder has a file of each of `others` processes."""
    (folder / str(os.getpid())).touch()
    until(lambda: len(list(folder.iterdir())) == others)
    return os.getpid()


def raise_no_space(path: str) -> None:
    raise NoSpaceError(path, 5, 3)


class UnpicklableError(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_unpicklable() -> None:
    raise UnpicklableError(1, 2)


def run_with_crew(size: int, use: Callable[[Crew], Awaitable[Any]]) -> Any:
    async def go() -> Any:
        crew = Crew(size, boot.start, boot.serve, get_fork_context())
        try:
            await crew.start()
            await crew.ready()
            return await asyncio.wait_for(use(crew), HANGING_S)
        finally:
            crew.hang_up()
            for process in crew.processes:
                await asyncio.to_thread(process.join, HANGING_S)
                # The executor waits for the process too. Only the first wait gets the exit code.
                assert not psutil.pid_exists(process.pid), "a worker still runs"

    return uvloop.run(go())


@pytest.mark.parametrize("size", [0, 1, packets.MOST_BYTES - 200, packets.MOST_BYTES, 5_000_000])
def test_objects_of_any_size_pass(size: int) -> None:
    ours, theirs = packets.make_pair()
    for one, other in ((ours, theirs), (theirs, ours)):
        one.put(bytes(size))
        other.read_bell()
        assert other.get() == bytes(size)
    ours.close(1)
    theirs.read_bell()
    with pytest.raises(EOFError):
        theirs.get()
    with pytest.raises(OSError, match="Broken pipe"):
        theirs.put(1)
    theirs.close()


def test_all_come_back_each_to_who_asked() -> None:
    """Small and large objects, far more at once than the socket buffers hold."""
    items = [i if i % 7 else np.arange(i * 40) for i in range(2_000)]

    async def use(crew: Crew) -> list[Any]:
        return await asyncio.gather(*(crew.do(echo, item) for item in items))

    for given, answered in zip(items, run_with_crew(2, use), strict=True):
        assert np.array_equal(given, answered)


def test_all_workers_work_at_once(tmp_path: Path) -> None:
    async def use(crew: Crew) -> set[int]:
        return set(await asyncio.gather(*(crew.do(meet, tmp_path, 3) for _ in range(3))))

    assert len(run_with_crew(3, use)) == 3


def test_what_fails_there_is_raised_here_and_says_where() -> None:
    async def use(crew: Crew) -> int:
        with pytest.raises(NoSpaceError) as caught:
            await crew.do(raise_no_space, "x")
        assert str(caught.value) == str(NoSpaceError("x", 5, 3))
        with pytest.raises(TypeError) as other:
            await crew.do(echo)
        assert "in a worker" in other.value.__notes__[0]
        with pytest.raises(WorkerError, match="Unpicklable"):
            await crew.do(raise_unpicklable)
        return int(await crew.do(echo, 5))

    assert run_with_crew(1, use) == 5


def test_what_cannot_be_reported_is_reported_as_that() -> None:
    """A worker survives answers and errors that cannot be pickled."""

    async def use(crew: Crew) -> int:
        with pytest.raises(Exception, match="pickle"):
            await crew.do(eval, "lambda: 0")
        return int(await crew.do(echo, 7))

    assert run_with_crew(1, use) == 7


def test_a_killed_worker_fails_all_that_is_under_way() -> None:
    async def use(crew: Crew) -> None:
        under_way = [asyncio.ensure_future(crew.do(slow, 30.0)) for _ in range(5)]
        await asyncio.sleep(0.3)
        pids = await crew.ready()
        os.kill(pids[0], signal.SIGKILL)
        for each in under_way:
            with pytest.raises(BrokenExecutor):
                await each
        with pytest.raises(BrokenExecutor):
            await crew.do(echo, 1)
        for pid in pids[1:]:
            os.kill(pid, signal.SIGKILL)

    run_with_crew(2, use)


def test_hanging_up_fails_who_waits_and_ends_all() -> None:
    async def use(crew: Crew) -> None:
        waits = asyncio.ensure_future(crew.do(slow, 1.0))
        await asyncio.sleep(0.2)
        crew.hang_up()
        with pytest.raises(BrokenExecutor):
            await waits

    run_with_crew(2, use)


@pytest.mark.parametrize("victim", range(3))
def test_the_death_of_each_process_of_an_idle_crew_is_noticed(victim: int) -> None:
    async def use(crew: Crew) -> None:
        os.kill((await crew.ready())[victim], signal.SIGKILL)
        with pytest.raises(BrokenExecutor):
            while True:
                await crew.do(os.getpid)
                await asyncio.sleep(0.01)

    run_with_crew(3, use)
