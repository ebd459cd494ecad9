"""Counters continue after a killed feed, so that reports include the counts of all predecessors."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import uvloop

from mdstream.feed.assignment import Assignment
from mdstream.feed.feed import Feed
from mdstream.frames.rundir import RunDirectory, state_path
from mdstream.pool.pool import WorkerPool
from mdstream.settings import from_mapping
from mdstream.telemetry.state import FeedState

CARRIED = (
    "established",
    "reconnects",
    "control",
    "fetch_requests",
    "pool_rebuilds",
    "bars_late_trades",
    "bars_unmatched",
    "levels_dropped",
    "updates_untracked",
    "rejects_lost",
    "journal_missed",
    "stalls",
    "fetch_cycles",
)


class Outbox:
    def put(self, *_: Any) -> None: ...


def test_a_feed_that_takes_over_continues_the_counts(tmp_path: Path) -> None:
    config = from_mapping({"rejects": str(tmp_path), "journal": str(tmp_path / "journal")})

    async def go() -> None:
        with RunDirectory() as run:
            run.describe()
            state = FeedState.create(state_path(run.path, "stocks"))
            for name in CARRIED:
                state[name] = 3
            pool = WorkerPool(0, 30)
            await pool.start()
            ours, _theirs = multiprocessing.Pipe()
            assignment = Assignment("stocks", run.path, run.run, config.feed("stocks"), 100, 1)
            feed = Feed(assignment, Outbox(), ours, state, pool)  # type: ignore[arg-type]
            pool.rebuilds = 1
            feed._publish_gauges()
            assert {n: state[n] for n in CARRIED} == {n: 3 + (n == "pool_rebuilds") for n in CARRIED}
            await feed._pipeline.close()
            await pool.close()

    uvloop.run(go())
