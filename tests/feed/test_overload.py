"""An overloaded stream says so, once, and says when it has caught up."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import uvloop

from mdstream.feed import overload
from mdstream.feed.overload import Overload
from mdstream.telemetry.events import RunEvent, Severity
from tests.feed.test_pipeline import payloads
from tests.piping import rig


@pytest.mark.cases("M8")
def test_an_overload_is_two_events_and_a_long_one_is_reported_again() -> None:
    found = list[tuple[float, RunEvent]]()
    load = Overload(lambda event: found.append((second, event)))
    for second in range(200):
        lag = 0.1 if second < 5 or second > 150 else float(second - 5)
        load.check(lag, 13, second > 30, float(second))
    assert [second for second, _ in found] == [7, 67, 127, 151]
    first, _, third, last = (event for _, event in found)
    assert first.severity is Severity.WARNING
    assert "the oldest of 13 waiting batches was received 2 s ago" in first.text
    assert "all buffers are full" not in first.text
    assert "all buffers are full" in third.text
    assert "more workers" in third.text
    assert (last.text, last.severity) == ("caught up after 146 s", Severity.INFO)


@pytest.mark.cases("M8")
def test_a_pipeline_whose_workers_lag_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "LAGS_S", 0.05)
    events: list[RunEvent] = []

    async def go() -> None:
        async with rig("stocks", 1, tmp_path, slab_kb=16) as r:
            r.pipeline._overload = Overload(events.append)
            r.pipeline.heartbeat()
            assert not events
            [worker] = r.pool.pids
            os.kill(worker, signal.SIGSTOP)
            try:
                for payload, kind, recv_ns in payloads("stocks", 3_000, 3):
                    if not r.pipeline.offer(payload, kind, recv_ns):
                        break
                while not events:
                    r.pipeline.heartbeat()
            finally:
                os.kill(worker, signal.SIGCONT)
            await r.drain()
            r.pipeline.heartbeat()

    uvloop.run(go())
    assert [event.severity for event in events] == [Severity.WARNING, Severity.INFO]
    assert "all buffers are full" in events[0].text
