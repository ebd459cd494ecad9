"""What a change of the number of workers reports. The policy is scripted, the workers are real."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
import uvloop

from mdstream.feed import scaler
from mdstream.feed.scaler import Scaler
from mdstream.feed.scaling import Change, Load, Scaling
from mdstream.telemetry.events import EventKind, RunEvent
from tests.feed.test_pipeline import payloads
from tests.piping import Rig, rig
from tests.running import HANGING_S

SCRIPT = (Change(2, "busy"), Change(1, "less busy"), Change(0, "quiet"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> list[Load]:
    """Make the policy follow SCRIPT; return the loads that it was asked with."""
    loads: list[Load] = []
    changes = iter(SCRIPT)

    def decide(self: Scaling, load: Load, workers: int, now: float) -> Change | None:
        loads.append(load)
        return next(changes, None)

    monkeypatch.setattr(Scaling, "decide", decide)
    return loads


async def beat(r: Rig, scaling: Scaler) -> None:
    """Let the scaler decide once, and wait until it has acted."""
    scaling.heartbeat()
    assert scaling._changing is not None
    await asyncio.wait_for(scaling._changing, HANGING_S)
    assert r.state["pool_size"] == r.pool.size


def test_each_change_is_a_log_line_an_event_a_count_and_a_gauge(
    tmp_path: Path, script: list[Load], caplog: pytest.LogCaptureFixture
) -> None:
    events: list[RunEvent] = []

    async def go() -> None:
        async with rig("stocks", 0, tmp_path, most=2) as r:
            scaling = Scaler(r.pool, r.pipeline, r.state, events.append)
            for count, change in enumerate(SCRIPT, start=1):
                await r.feed(payloads("stocks", 60))
                await r.pipeline.drain()
                await beat(r, scaling)
                assert r.pool.size == change.workers
                assert r.state["pool_changes"] == count
            await r.drain()

    with caplog.at_level(logging.INFO):
        uvloop.run(go())
    texts = ["2 workers (busy)", "1 worker (less busy)", "no workers (quiet)"]
    assert [event.text for event in events] == texts
    assert {event.kind for event in events} == {EventKind.WORKERS}
    assert events[1].fields == {"workers": 1, "before": 2}
    assert [m for m in caplog.messages if m in texts] == texts
    assert all(load.decoding > 0 and load.batches_per_s > 0 for load in script)


def test_workers_that_cannot_start_are_reported_and_requested_again_later(
    tmp_path: Path, script: list[Load], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(size: int) -> None:
        raise OSError(24, "too many open files")

    async def go() -> None:
        async with rig("stocks", 0, tmp_path, most=2) as r:
            scaling = Scaler(r.pool, r.pipeline, r.state, lambda event: None)
            with monkeypatch.context() as patch:
                patch.setattr(r.pool, "resize", refuse)
                await beat(r, scaling)
            scaling.heartbeat()
            assert len(script) == 1, "it waits before the next attempt"
            assert r.state["pool_changes"] == 0
            monkeypatch.setattr(scaling, "_paused_until", 0.0)
            await beat(r, scaling)
            assert r.pool.size == SCRIPT[1].workers
            await r.drain()

    uvloop.run(go())
    expected = f"going on with no workers, trying again in {scaler._AGAIN_S:.0f} s"
    assert "cannot start 2 workers" in caplog.text
    assert expected in caplog.text
