"""A run reports its losses in the report, in telemetry and in the summary."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvloop
from rich.console import Console

from mdstream.config import Config
from mdstream.engine import report
from mdstream.engine.event_log import EventLog
from mdstream.engine.feed_process import FeedProcess
from mdstream.engine.measure import Measurements
from mdstream.engine.supervisor import Supervisor
from mdstream.frames.keyed_frame import MOST_ROWS
from mdstream.frames.rundir import RunDirectory
from mdstream.reading.attach import attach
from mdstream.store.rejects import RejectFile
from mdstream.streams.spec import PayloadKind
from mdstream.telemetry.state import FeedState
from mdstream.views import summary
from tests.piping import rig
from tests.running import fill, tmpfs

TRADE = b'[{"T":"t","S":"NEW","x":"V","p":1.5,"s":1,"c":["@"],"i":1,"z":"C","t":"2024-01-02T15:00:00Z"}]'


def build(run: Path, state: FeedState, measurements: Measurements) -> tuple[dict[str, Any], str]:
    """Return the report of a run whose only feed has this state, and the printed summary."""
    supervisor = Supervisor(Config(streams=("stocks",)), lambda record: None)
    supervisor.directory = SimpleNamespace(path=run, run=attach(str(run)).run)  # type: ignore[assignment]
    supervisor._measurements = measurements
    supervisor.feeds = {
        "stocks": FeedProcess("stocks", (), state, EventLog(measurements.writer), lambda _: None)
    }
    measurements.sample(supervisor.feeds.values())
    built = report.build(supervisor)
    console = Console(file=io.StringIO(), width=200)
    summary.show(built, console)
    assert isinstance(console.file, io.StringIO)
    return built, console.file.getvalue()


def test_updates_without_room_and_rejects_without_disk_are_reported(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            writers = r.committer._dictionaries._writers
            writers["symbols"].add([f"S{i}" for i in range(MOST_ROWS)])
            r.committer.rejects = RejectFile(tmp_path / "rejects", limit=10)
            await r.feed([(TRADE, PayloadKind.JSON, 1), (b"[garbage", PayloadKind.JSON, 2)])
            await r.drain()
            measurements = Measurements(r.run)
            built, text = build(r.run, r.state, measurements)
            measurements.close()
            stream, reader = built["streams"]["stocks"], attach(str(r.run))
            assert (stream["updates_untracked"], stream["rejects_lost"]) == (1, 1)
            assert (stream["committed"], stream["rejected"]) == (1, 1)
            frame = reader.frame("telemetry.streams")
            assert frame.select("updates_untracked", "rejects_lost").row(0) == (1, 1)
            assert reader.metrics()["stocks"]["rejects_lost"] == 1
            assert "stocks: 1 updates of symbols for which a keyed frame has no room" in text
            assert "stocks: 1 rejected messages that could not be kept on disk" in text

    uvloop.run(go())


def test_telemetry_that_finds_no_room_is_reported(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "shm", 8) as folder, RunDirectory(folder) as run:
        run.describe()
        state = FeedState.create(run.path / "feeds" / "stocks.state")
        measurements = Measurements(run.path)
        with (run.path / "filling").open("wb", buffering=0) as file:
            fill(folder, file)
            built, text = build(run.path, state, measurements)
        assert built["telemetry_rows_lost"] >= 4
        assert f"{built['telemetry_rows_lost']} rows of telemetry for which memory had no room" in text
        (run.path / "filling").unlink()
        measurements.sample([])
        machine = attach(str(run.path)).frame("telemetry.machine")
        assert machine["telemetry_rows_lost"].to_list() == [built["telemetry_rows_lost"]]
        measurements.close()
