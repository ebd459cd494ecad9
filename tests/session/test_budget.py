"""The request budget, with a clock that the tests control."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mdstream.session import budget as budgets
from mdstream.session.budget import Budget
from tests.running import HANGING_S


class Clock:
    """A clock that moves only during a sleep. Monotonic and Unix time are the same."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return round(self.now * 1e9)

    time = monotonic

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(budgets, "time", clock)
    monkeypatch.setattr(budgets, "asyncio", SimpleNamespace(Lock=asyncio.Lock, sleep=clock.sleep))
    return clock


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(HANGING_S):
            await main

    asyncio.run(bounded())


def test_no_window_sees_more_requests_than_the_share(clock: Clock) -> None:
    async def main() -> None:
        budget, sent = Budget(20), []

        async def one(number: int) -> None:
            await budget.take()
            sent.append((clock.now, number))

        started = clock.now
        await asyncio.gather(*map(one, range(20)))
        assert clock.now == started, "requests within the share do not wait"
        clock.now += 30
        await asyncio.gather(*map(one, range(20, 55)))
        times = [at for at, _ in sent]
        assert min(b - a for a, b in zip(times, times[20:], strict=False)) > 60
        assert clock.now < started + 125, "the budget is used up to its limit"
        assert [number for _, number in sent] == list(range(55)), "requests keep their order"

    run(main())


def test_a_successor_keeps_to_what_its_killed_predecessor_spent(clock: Clock, tmp_path: Path) -> None:
    async def main() -> None:
        started = clock.now
        first = Budget.in_file(8, tmp_path / "requests")
        for _ in range(6):
            await first.take()
        second = Budget.in_file(8, tmp_path / "requests")
        await second.take()
        await second.take()
        assert clock.now == started, "two requests of the budget were left"
        await second.take()
        assert clock.now > started + 60

    run(main())


def test_nothing_remaining_holds_all_requests_until_the_reset(clock: Clock) -> None:
    async def main() -> None:
        budget, started = Budget(100), clock.now
        budget.read_quota({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(started) + 20)})
        assert budget.waits_s == 20
        await asyncio.gather(*(budget.take() for _ in range(5)))
        assert clock.now == started + 20
        budget.read_quota({"X-RateLimit-Remaining": "50", "X-RateLimit-Reset": str(int(started) + 50)})
        await budget.take()
        assert clock.now == started + 20

    run(main())


def test_a_reset_that_is_far_away_or_unreadable_holds_for_a_minute_at_most(clock: Clock) -> None:
    budget = Budget(100)
    budget.read_quota({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "soon"})
    assert budget.waits_s == 0
    budget.read_quota({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795492487000"})
    assert budget.waits_s == 60


def test_a_pause_is_kept_until_its_end_whatever_shorter_one_follows(clock: Clock) -> None:
    budget = Budget(100)
    budget.hold(30)
    budget.hold(5)
    assert budget.waits_s == 30
    budget.hold(-1)
    clock.now += 30
    assert budget.waits_s == 0


def test_a_budget_that_learns_takes_the_services_limit_and_forgets_no_request(clock: Clock) -> None:
    async def main() -> None:
        budget = Budget(200, learns=True)
        for _ in range(50):
            await budget.take()
        budget.read_quota({"X-RateLimit-Limit": "60"})
        assert budget.share == 60
        started = clock.now
        for _ in range(10):
            await budget.take()
        assert clock.now == started, "ten requests of sixty were left"
        await budget.take()
        assert clock.now > started + 60
        budget.read_quota({"X-RateLimit-Limit": "10000"})
        for _ in range(5_000):
            await budget.take()
        assert clock.now < started + 62

    run(main())


def test_a_budget_that_was_set_stays_as_it_is(clock: Clock) -> None:
    budget = Budget(50)
    budget.read_quota({"X-RateLimit-Limit": "10000"})
    assert budget.share == 50
    assert Budget(0).share == 1, "a share of 0 would stop all requests"
