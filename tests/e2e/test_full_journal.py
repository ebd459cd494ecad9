"""A run whose journal lacks payloads is no success."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdstream.errors import Exit
from tests.running import engine, settings, simulator, tmpfs, until


@pytest.mark.cases("M8")
def test_a_run_whose_journal_found_no_room_does_not_end_with_0(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 1) as disk, simulator("--rate", "2000") as sim:
        with engine(settings(sim, tmp_path, streams=["crypto"], workers=1, journal=str(disk))) as running:
            until(lambda: running.attachment.metrics()["crypto"]["journal_missed"] > 10)
        report = running.report
    assert running.exit_code == Exit.STREAM_FAILED
    assert report is not None
    assert report["streams"]["crypto"]["journal_missed"] > 10
    assert report["streams"]["crypto"]["state"] == "stopped"
