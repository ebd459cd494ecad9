"""Turns of jobs: a suspect runs alone, and a cancelled job blocks no other job."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from mdstream.pool.suspects import Turns


async def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(work)
    for _ in range(3):
        await asyncio.sleep(0)
    return task


def test_others_wait_while_there_is_a_suspect_and_it_waits_until_nobody_works() -> None:
    async def go() -> None:
        turns = Turns()
        await turns.enter()
        turns.accuse()
        alone = await start(turns.enter_alone())
        other = await start(turns.enter())
        assert not alone.done()
        turns.leave()
        await alone
        assert not other.done()
        assert turns.busy == 1
        turns.leave()
        turns.clear()
        await other
        assert turns.busy == 1

    asyncio.run(go())


def test_of_two_suspects_one_runs_at_a_time() -> None:
    async def go() -> None:
        turns = Turns()
        turns.accuse()
        turns.accuse()
        first, second = await start(turns.enter_alone()), await start(turns.enter_alone())
        assert [first.done(), second.done()] == [True, False]
        turns.leave()
        turns.clear()
        await second
        other = await start(turns.enter())
        assert not other.done()
        turns.leave()
        turns.clear()
        await other

    asyncio.run(go())


def test_one_that_is_cancelled_while_waiting_is_at_work_for_nobody() -> None:
    async def go() -> None:
        turns = Turns()
        await turns.enter()
        turns.accuse()
        alone = await start(turns.enter_alone())
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        turns.clear()
        await asyncio.wait_for(turns.enter(), 1)
        assert turns.busy == 2

    asyncio.run(go())
