"""The number of requests under way: fewer after time-outs, slowly more after answers."""

from __future__ import annotations

import asyncio

import pytest

from mdstream.session.concurrency import Concurrency


def test_time_outs_of_one_round_halve_the_limit_once_down_to_one() -> None:
    async def main() -> None:
        places = Concurrency(8)
        for limit in (4, 2, 1, 1):
            count = int(places.limit)
            for _ in range(count):
                await places.acquire()
            numbers = [places.send() for _ in range(count)]
            lowered = [places.time_out(number) for number in numbers]
            assert lowered == [limit < count] + [False] * (count - 1)
            assert places.limit == limit
            for _ in range(count):
                places.release()

    asyncio.run(main())


def test_the_limit_follows_what_was_under_way_and_not_what_would_be_allowed() -> None:
    async def main() -> None:
        places = Concurrency(128)
        for _ in range(10):
            await places.acquire()
        assert places.time_out(places.send())
        assert places.limit == 5

    asyncio.run(main())


def test_a_round_of_answers_raises_the_limit_by_about_one_up_to_the_most() -> None:
    places = Concurrency(8)
    places.limit = 4.0
    for _ in range(4):
        places.answer()
    assert 4.8 < places.limit <= 5
    for _ in range(100):
        places.answer()
    assert places.limit == 8


def test_callers_get_places_in_order_and_none_is_lost_with_a_caller_that_gives_up() -> None:
    async def main() -> list[int]:
        places, order = Concurrency(1), list[int]()
        await places.acquire()

        async def enter(number: int) -> None:
            await places.acquire()
            order.append(number)
            places.release()

        callers = [asyncio.create_task(enter(number)) for number in range(5)]
        await asyncio.sleep(0)
        callers[1].cancel()
        places.release()
        callers[0].cancel()  # it has just got the place
        await asyncio.gather(*callers, return_exceptions=True)
        assert places.under_way == 0
        return order

    assert asyncio.run(main()) == [2, 3, 4]


@pytest.mark.cases("N4")
def test_a_congested_server_is_asked_less_until_it_answers() -> None:
    """A model: all requests share the server, and those that take longer than 10 s time out."""
    places, capacity, done, rounds = Concurrency(128), 0.9, 0, 0
    while done < 192:
        rounds += 1
        count = min(int(places.limit), 192 - done)
        for _ in range(count):
            places._enter()
        numbers = [places.send() for _ in range(count)]
        is_late = count / capacity > 10
        for number in numbers:
            if is_late:
                places.time_out(number)
            else:
                places.answer()
                done += 1
            places.release()
        assert rounds < 100
    assert places.limit < 16
    assert places._sent < 192 + 128 + 64 + 32 + 16 + 60
