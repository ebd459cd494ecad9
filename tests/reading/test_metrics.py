"""The engine's counters as readers see them: current, from one moment, and read-only."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from mdstream.errors import NoRunError
from mdstream.frames.rundir import RunDirectory, state_path
from mdstream.reading.attach import attach
from mdstream.telemetry.metrics import STREAM
from mdstream.telemetry.state import FeedState
from tests.feed.test_pipeline import payloads
from tests.piping import rig


def test_metrics_are_those_of_this_moment_with_their_histograms(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            run = attach(str(r.run))
            for count in (30, 60):
                await r.feed(payloads("stocks", 30, 10))
                await r.pipeline.drain()
                metrics = run.metrics()
                assert list(metrics) == ["stocks"]
                found = metrics["stocks"]
                assert set(found) == {metric.name for metric in STREAM if not metric.is_internal}
                assert (found["messages"], found["committed"], found["in_flight"]) == (count, count, 0)
                assert found["latency"].sum() == count
                assert found["latency_p50_ms"] > 0
                assert found["rows"] >= count
            await r.drain()

    uvloop.run(go())


def test_a_run_that_has_ended_has_no_metrics() -> None:
    with RunDirectory() as directory:
        directory.describe()
        run = attach(directory.run)
        assert run.metrics() == {}
        FeedState.create(state_path(directory.path, "crypto"))
        assert run.metrics()["crypto"]["latency_p50_ms"] is None
    with pytest.raises(NoRunError, match="has ended"):
        run.metrics()
