"""How many workers a feed gets, on made-up loads. No process, no clock."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from mdstream.feed.scaling import CALM_S, HANDOFF_S, Change, Load, Scaling, describe

BEAT_S = 0.25
MOST = 8


def follow(loads: Iterable[Load], workers: int = 0, most: int = MOST) -> list[tuple[float, Change]]:
    """Return each change of a feed that gets all it wants, with its time."""
    policy, changes = Scaling(most), []
    for beat, load in enumerate(loads):
        if change := policy.decide(load, workers, beat * BEAT_S):
            changes.append((beat * BEAT_S, change))
            workers = change.workers
            policy.restart()
    return changes


def for_seconds(seconds: float, load: Load) -> list[Load]:
    return [load] * round(seconds / BEAT_S)


BUSY = Load(decoding=0.52, batches_per_s=100)
QUIET = Load(decoding=0.02, batches_per_s=100)


def test_a_quiet_stream_gets_no_worker() -> None:
    assert follow(for_seconds(120, QUIET)) == []


def test_a_load_of_one_second_gets_a_worker_and_a_reason() -> None:
    [(at, change)] = follow(for_seconds(10, BUSY))
    assert at == 3 * BEAT_S
    assert change == Change(1, "decoding took 52% of the feed's time")


def test_a_burst_shorter_than_a_second_gets_none() -> None:
    assert follow([*for_seconds(0.75, BUSY), QUIET] * 20) == []


def test_many_small_batches_get_none_because_handing_them_off_is_as_much_work() -> None:
    rate = 5000.0
    assert follow(for_seconds(60, Load(decoding=rate * HANDOFF_S, batches_per_s=rate))) == []


def test_a_steady_load_changes_nothing_after_its_worker() -> None:
    assert len(follow(for_seconds(600, BUSY))) == 1


@pytest.mark.parametrize(
    ("load", "workers", "expected"),
    [
        (Load(decoding=0.9), 1, Change(2, "1 worker decoded 90% of the time")),
        (Load(decoding=3.6), 4, Change(6, "4 workers decoded 90% of the time")),
        (Load(decoding=5.4), 6, Change(8, "6 workers decoded 90% of the time")),
        (Load(decoding=0.1, queued=9, lag_s=0.54), 0, Change(1, "batches waited for 0.5 s or more")),
        (Load(decoding=0.04, queued=9, lag_s=0.54), 0, None),
        (Load(decoding=1.0, queued=2, lag_s=0.2), 2, Change(3, "batches waited for 0.2 s or more")),
        (Load(decoding=1.0, queued=2, lag_s=0.02), 2, None),
        (Load(decoding=8.0, queued=2, lag_s=2.0), 8, None),
        (Load(decoding=0.7), 1, None),
    ],
)
def test_more_workers_come_when_all_are_busy_or_batches_queue(
    load: Load, workers: int, expected: Change | None
) -> None:
    changes = follow(for_seconds(1, load), workers)
    assert [change for _, change in changes] == ([expected] if expected else [])


def test_workers_go_once_the_load_has_fit_in_fewer_for_a_while() -> None:
    [(at, change)] = follow(for_seconds(60, QUIET), workers=1)
    assert at == CALM_S
    assert change == Change(0, "decoding took at most 2% of a core for 15 s")


def test_as_many_stay_as_the_busiest_moment_of_the_while_needed() -> None:
    loads = [*for_seconds(5, Load(0.2)), *for_seconds(1, Load(0.9)), *for_seconds(10, Load(0.2))]
    [(at, change)] = follow(loads, workers=6)
    assert (at, change.workers) == (CALM_S, 2)


def test_batches_that_wait_keep_the_workers_of_a_machine_that_is_full() -> None:
    assert follow(for_seconds(60, Load(decoding=0.1, queued=2, lag_s=0.5)), workers=2, most=2) == []


def test_a_busy_moment_now_and_then_keeps_the_worker() -> None:
    assert follow([*for_seconds(10, QUIET), BUSY] * 10, workers=1) == []


def test_the_number_follows_a_load_that_rises_and_falls() -> None:
    loads = [
        *for_seconds(5, Load(0.1)),
        *for_seconds(30, Load(0.6)),
        *for_seconds(30, Load(1.9)),
        *for_seconds(60, Load(0.3)),
        *for_seconds(60, Load(0.05)),
    ]
    assert [change.workers for _, change in follow(loads)] == [1, 2, 3, 1, 0]


def test_numbers_of_workers_in_words() -> None:
    assert [describe(count) for count in range(3)] == ["no workers", "1 worker", "2 workers"]
