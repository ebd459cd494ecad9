"""A pool with scripted processes: crews die, and no ticket waits forever."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from mdstream.errors import NoWorkersError, PoisonedBatchError
from mdstream.handoff.page_ticket import JoinTicket
from mdstream.pool import pool as pool_module
from mdstream.pool.pool import WorkerPool

Function = Callable[[str], str]


class ScriptedCrew:
    """Processes that answer a ticket with its name, or die. If one dies, all die, as in a real crew."""

    processes: frozenset[Any] = frozenset()

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[str]] = set()
        self._is_broken = False

    async def do(self, function: Function, ticket: str) -> str:
        if self._is_broken:
            raise BrokenExecutor
        if ticket.startswith("kills"):
            self.hang_up()
            raise BrokenExecutor
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        if not ticket.startswith("slow"):
            asyncio.get_running_loop().call_soon(
                lambda: future.done() or future.set_result(function(ticket))
            )
        try:
            return await future
        finally:
            self._waiting.discard(future)

    def hang_up(self) -> None:
        self._is_broken = True
        for future in self._waiting:
            if not future.done():
                future.set_exception(BrokenExecutor())


class ScriptedPool(WorkerPool):
    """A pool whose crews start if `can_start`, once `gate` is set."""

    def __init__(self, **options: Any) -> None:
        super().__init__(2, 30.0, **options)
        self.can_start = True
        self.gate = asyncio.Event()
        self.gate.set()

    async def _new_crew(self) -> None:
        self._crew = ScriptedCrew()  # type: ignore[assignment]
        await self.gate.wait()
        if not self.can_start:
            raise BrokenExecutor("it died as it started")

    async def do(self, ticket: str) -> str:
        return await self._do(str.upper, ticket, ticket)


def run_with_pool(use: Callable[[ScriptedPool], Awaitable[None]], **options: Any) -> None:
    async def go() -> None:
        pool = ScriptedPool(**options)
        await pool._new_crew()
        try:
            async with asyncio.timeout(20):
                await use(pool)
        finally:
            await pool.close()

    asyncio.run(go())


async def wait_for_all(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_ticket_that_kills_twice_is_poisoned_and_those_beside_it_are_done() -> None:
    async def use(pool: ScriptedPool) -> None:
        good = [asyncio.ensure_future(pool.do(name)) for name in ("a", "b")]
        with pytest.raises(PoisonedBatchError, match="died, twice"):
            await pool.do("kills")
        assert await asyncio.gather(*good) == ["A", "B"]
        assert await pool.do("c") == "C"
        assert pool.busy == 0

    run_with_pool(use)


def test_a_pool_that_cannot_be_rebuilt_fails_each_ticket_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_START_PAUSE_S", 0.01)

    async def use(pool: ScriptedPool) -> None:
        pool.can_start = False
        for ticket in ("kills", "a", "b"):
            with pytest.raises(NoWorkersError, match="die as they start"):
                await pool.do(ticket)
        assert pool.busy == 0

    run_with_pool(use)


def test_a_pool_that_is_given_time_is_rebuilt_when_the_shortage_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "_START_PAUSE_S", 0.01)

    async def use(pool: ScriptedPool) -> None:
        pool.can_start = False
        asyncio.get_running_loop().call_later(0.5, setattr, pool, "can_start", True)
        with pytest.raises(PoisonedBatchError):
            await pool.do("kills")
        assert await pool.do("a") == "A"
        assert pool.rebuilds > 5

    run_with_pool(use, rebuild_s=15.0)


def test_a_ticket_that_is_cancelled_in_a_rebuild_leaves_a_whole_crew_to_the_others() -> None:
    async def use(pool: ScriptedPool) -> None:
        pool.gate.clear()
        suspect = asyncio.ensure_future(pool.do("kills"))
        while not pool.rebuilds:
            await asyncio.sleep(0.01)
        other = asyncio.ensure_future(pool.do("a"))
        suspect.cancel()
        await wait_for_all(suspect)
        pool.gate.set()
        assert await other == "A"
        assert pool.rebuilds == 1

    run_with_pool(use)


def test_a_suspect_that_is_cancelled_while_it_waits_to_run_alone_holds_up_nobody() -> None:
    async def use(pool: ScriptedPool) -> None:
        pool._turns.busy += 1  # a job that never ends
        suspect = asyncio.ensure_future(pool.do("kills"))
        while not pool.rebuilds:
            await asyncio.sleep(0.01)
        for _ in range(10):
            await asyncio.sleep(0.01)
        suspect.cancel()
        await wait_for_all(suspect)
        assert await pool.do("a") == "A"

    run_with_pool(use)


def test_a_suspect_that_is_cancelled_at_work_holds_up_nobody() -> None:
    async def use(pool: ScriptedPool) -> None:
        slow = asyncio.ensure_future(pool.do("slow"))
        await asyncio.sleep(0.01)
        with pytest.raises(PoisonedBatchError):
            await pool.do("kills")
        await asyncio.sleep(0.05)  # `slow` runs again, now alone
        assert pool.busy == 1
        other = asyncio.ensure_future(pool.do("a"))
        await asyncio.sleep(0.05)
        assert not other.done()
        slow.cancel()
        await wait_for_all(slow)
        assert await other == "A"

    run_with_pool(use)


def test_one_that_waits_for_a_rebuild_when_the_pool_is_closed_is_notified() -> None:
    async def use(pool: ScriptedPool) -> None:
        pool.gate.clear()
        suspect = asyncio.ensure_future(pool.do("kills"))
        while not pool.rebuilds:
            await asyncio.sleep(0.01)
        await pool.close()
        with pytest.raises(NoWorkersError, match="closed"):
            await suspect

    run_with_pool(use)


def kill_as_they_start(kills: int) -> threading.Thread:
    """Kill the next `kills` worker processes of this one as soon as they exist, as the OOM killer does."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    def kill() -> None:
        left = kills
        while left:
            for child in psutil.Process().children(recursive=True):
                try:
                    is_worker = "spawn_main" in " ".join(child.cmdline())
                    if left and is_worker and child.pid not in before:
                        child.kill()
                        before.add(child.pid)
                        left -= 1
                except psutil.Error:
                    continue
            time.sleep(0.002)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.cases("M3")
def test_workers_that_die_three_times_as_they_first_start_are_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> int:
        pool = WorkerPool(1, 60.0, kernels=False, rebuild_s=60.0)
        killer = kill_as_they_start(3)
        await pool.start(bars=False)
        killer.join()
        try:
            return (await pool.join(JoinTicket("stocks", "trades", (), str(tmp_path / "file")))).rows
        finally:
            await pool.close()

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(use()) == 0
    assert caplog.text.count("a worker died while it started") >= 3


@pytest.mark.cases("M3")
def test_workers_that_never_start_are_reported_as_such_and_not_as_a_broken_executor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "_START_PAUSE_S", 0.01)

    async def use() -> None:
        pool = ScriptedPool()
        pool.can_start = False
        with pytest.raises(NoWorkersError, match="workers die as they start, 3 times"):
            await pool.start(bars=False)
        with pytest.raises(NoWorkersError, match="workers die as they start"):
            await pool.do("a")
        await pool.close()

    asyncio.run(use())
