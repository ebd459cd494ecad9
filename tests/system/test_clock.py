"""Everything that waits or measures uses the monotonic clock; the wall clock is for data."""

from __future__ import annotations

import ast
import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.system import clock
from mdstream.system.clock import MOST_GAP_S, Awake, Moment, ReceiptClock, Span

ROOT = Path(__file__).resolve().parents[2]
SECOND = 1_000_000_000

DATA = {
    "mdstream/system/clock.py": "receive times; the only place that reads both clocks",
    "mdstream/engine/event_log.py": "times of events",
    "mdstream/engine/measure.py": "times of samples",
    "mdstream/engine/preparation.py": "the start of the run, for people",
    "mdstream/frames/rundir.py": "names of runs; ages of files, whose times are of the wall clock",
    "mdstream/history/api.py": "the end of a range that may be requested",
    "mdstream/history/backfill.py": "the last minutes that a plan does not have; ages of empty shards",
    "mdstream/history/filing.py": "names of files",
    "mdstream/history/ledger.py": "the times of requests, which are stored",
    "mdstream/history/plan.py": "ages of empty shards",
    "mdstream/reading/filters.py": "rows since a time",
    "mdstream/session/budget.py": "a time that the service names",
    "mdstream/session/fetch.py": "a time in a request",
    "mdstream/session/rest.py": "a time that the service names",
    "mdstream/session/silence.py": "whether the market is open",
    "mdstream/session/sockets/interface.py": "a time that the service names",
    "mdstream/simulator/markets/options.py": "a range of dates",
    "mdstream/simulator/rest_query.py": "the end of a range without one",
    "mdstream/simulator/rest_service.py": "times in made-up data, and in headers",
    "mdstream/simulator/traffic.py": "times in made-up data",
    "mdstream/feed/selection.py": "the day on which contracts expire",
    "mdstream/store/compaction.py": "the time of a commit",
    "mdstream/store/migration.py": "the time of a commit",
    "mdstream/store/replacement.py": "the time of a commit",
    "mdstream/store/table.py": "the time of a commit",
    "workers/kernels/kept.py": "ages of files, whose times are of the wall clock",
    "mdstream/views/market.py": "ages of prices, whose times are of the wall clock",
}
"""File → the data that it reads the wall clock for."""

_WALL = {
    ("time", "time"),
    ("time", "time_ns"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
    ("process", "create_time"),
}


def find_wall_clock(path: Path) -> Iterator[int]:
    """Yield the lines of a file that read the wall clock, under whatever name."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in _WALL:
                yield node.lineno
            case ast.Attribute(attr="create_time"):
                yield node.lineno
            case ast.ImportFrom(module="time", names=names) if {n.name for n in names} & {
                "time",
                "time_ns",
            }:
                yield node.lineno


@pytest.mark.cases("M1")
def test_the_wall_clock_is_read_for_data_alone() -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for package in ("mdstream", "workers")
        for path in sorted((ROOT / package).rglob("*.py"))
        if (lines := list(find_wall_clock(path)))
    }
    assert found.keys() == DATA.keys(), {n: found.get(n) for n in found.keys() ^ DATA.keys()}


@pytest.mark.cases("M1")
def test_no_difference_of_two_readings_of_the_wall_clock_is_taken() -> None:
    """A difference with a reading measures or waits, unless the other side is a time from outside."""
    outside = {
        ("mdstream/frames/rundir.py", "st_mtime"),
        ("mdstream/history/backfill.py", "RECENT_NS"),
        ("mdstream/session/budget.py", "reset"),
        ("workers/kernels/kept.py", "UNUSED_DAYS"),
    }
    found = []
    for path in sorted([*(ROOT / "mdstream").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]):
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.BinOp | ast.Compare) or isinstance(
                getattr(node, "op", ast.Sub()), ast.Mult | ast.FloorDiv | ast.Div | ast.Mod
            ):
                continue
            text = ast.unparse(node)
            if ("time.time()" in text or "time.time_ns()" in text) and not any(
                name == file and word in text for file, word in outside
            ):
                found.append(f"{name}:{node.lineno}: {text}")
    assert not found


@pytest.mark.cases("M1")
@given(st.lists(st.tuples(st.integers(0, 10 * SECOND), st.integers(-20, 20)), min_size=1, max_size=30))
def test_receive_times_never_go_back_and_return_to_the_wall_clock(passes: list[tuple[int, int]]) -> None:
    wall, monotonic, receipts = 1_700_000_000 * SECOND, 50, ReceiptClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock.time, "time_ns", lambda: wall)
        patch.setattr(clock.time, "monotonic_ns", lambda: monotonic)
        before = receipts.now()
        assert before == wall
        for passed, step in passes:
            wall, monotonic = wall + passed + step * SECOND, monotonic + passed
            now = receipts.now()
            assert now >= max(before + passed // 2, wall)
            assert receipts.ahead == now - wall >= 0
            before = now
        ahead = receipts.ahead
        wall, monotonic = wall + 2 * ahead, monotonic + 2 * ahead
        assert receipts.now() - wall <= 1
        wall, monotonic = wall + 2, monotonic + 2
        assert (receipts.now(), receipts.ahead) == (wall, 0)


def test_awake_time_has_no_gaps() -> None:
    times = iter([0.0, 1.0, 1.5, 1.5 + MOST_GAP_S, 100.0, 100.5, 101.0])
    awake = Awake(lambda: next(times))
    assert [awake.now() for _ in range(6)] == [1.0, 1.5, 3.5, 3.5, 4.0, 4.5]


@pytest.mark.cases("M1")
def test_a_timeout_does_not_count_time_in_which_the_process_was_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "MOST_GAP_S", 0.3)

    async def go() -> str:
        async with clock.timeout(0.2):
            time.sleep(0.8)  # nothing runs
            await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            async with clock.timeout(0.2):
                await asyncio.sleep(60)
        async with clock.timeout(0.1):
            pass
        await asyncio.sleep(0.2)  # the last one has ended with its context
        return "done"

    assert asyncio.run(go()) == "done"


@pytest.mark.cases("M1")
@given(
    gaps=st.lists(st.integers(0, SECOND // 100), min_size=1, max_size=20),
    step=st.sampled_from([7_200, -7_200, 1, -1, 86_400 * 365, 0]),
    place=st.integers(0, 21),
)
def test_ages_are_right_wherever_the_wall_clock_is_set(gaps: list[int], step: int, place: int) -> None:
    true = np.cumsum([0, *gaps])  # of the beginning, then of each payload
    wall = true + 1_700_000_000 * SECOND
    wall[place:] += step * SECOND
    moved = step * SECOND  # set before the batch was submitted
    begun = Moment(int(wall[0]), 50)
    submitted = Moment(int(true[-1] + 5) + 1_700_000_000 * SECOND + moved, 50 + int(true[-1]) + 5)
    if place == 0:
        begun = Moment(int(true[0]) + 1_700_000_000 * SECOND + moved, 50)
    ages = Span(begun, submitted).ages(wall[1:], submitted.monotonic + 7)
    assert ages.tolist() == (true[-1] + 12 - true[1:]).tolist()


def test_a_moment_of_one_clock_is_one_of_the_other() -> None:
    assert Moment(1_000, 10).wall_at(15) == 1_005
