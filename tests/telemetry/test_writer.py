from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mdstream.errors import NoSpaceError
from mdstream.frames.chunk import Chunk
from mdstream.frames.rundir import RunDirectory
from mdstream.reading.attach import attach
from mdstream.telemetry.schema import CORES
from mdstream.telemetry.writer import TelemetryWriter


@pytest.fixture
def run() -> Iterator[RunDirectory]:
    with RunDirectory() as run:
        run.describe()
        yield run


def cores(second: int) -> list[dict[str, Any]]:
    busy = {"busy_percent": 50.0, "user_percent": 40.0, "system_percent": 10.0}
    return [{"ts": second, "core": core, **busy} for core in range(2)]


def test_measurements_that_find_no_room_are_counted_and_end_nothing(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = TelemetryWriter(run.path)
    with monkeypatch.context() as full, caplog.at_level(logging.WARNING):

        def refuse(path: Any, *_: Any) -> None:
            raise NoSpaceError(str(path), 1, 0)

        full.setattr(Chunk, "create", staticmethod(refuse))
        recorder.write(CORES, cores(1))
        recorder.write(CORES, cores(2))
    assert recorder.lost == 4
    assert len(caplog.records) == 1
    recorder.write(CORES, cores(3))
    assert attach(run.run).frame("telemetry.cores")["ts"].to_physical().to_list() == [3, 3]
