"""What the supervisor measures, and how often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mdstream.engine import measure
from mdstream.engine.measure import Measurements
from mdstream.frames.rundir import RunDirectory, state_path
from mdstream.reading.attach import attach
from mdstream.telemetry.state import FeedState


def test_processes_of_a_quiet_run_are_measured_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDirectory(None) as run:
        run.describe(streams=["stocks"])
        state = FeedState.create(state_path(run.path, "stocks"))
        label = SimpleNamespace(label="streaming")
        feed: Any = SimpleNamespace(
            stream="stocks",
            state=state,
            stage=label,
            used=[],
            process=None,
            workers=[],
            forkserver_pid=None,
        )
        recorders: list[int] = []
        measurements = Measurements(run.path, None, lambda: recorders)
        reader = attach(str(run.path))

        def measured(payloads: int) -> int:
            """Measure after `payloads` more; return how often processes have been measured."""
            state["payloads_received"] += payloads
            measurements.sample([feed])
            samples.append(payloads)
            assert reader.rows("telemetry.streams") == len(samples)
            return reader.rows("telemetry.machine")

        samples: list[int] = []
        assert [measured(0), measured(50), measured(50)] == [1, 1, 1]
        assert measured(1) == 2  # more than 100 since the last one
        recorders.append(1)
        assert measured(0) == 3  # another process
        monkeypatch.setattr(measure, "_QUIET_S", 0.0)
        assert measured(0) == 4
        measurements.close()
