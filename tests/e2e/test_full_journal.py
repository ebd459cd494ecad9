"""A run whose journal lacks payloads is no success."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from mdstream.errors import Exit
from mdstream.reading.attach import Attachment
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


def find_losses(run: Attachment) -> list[str]:
    events = run.frame("telemetry.events").with_columns(pl.col("kind").cast(pl.String))
    return events.filter(pl.col("kind") == "journal")["text"].to_list()


def test_a_run_whose_journal_is_removed_says_so_and_does_not_end_with_0(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with simulator("--rate", "500") as sim:
        values = settings(sim, tmp_path, streams=["crypto"], workers=1, journal=str(journal))
        with engine(values) as running:
            until(lambda: list(journal.rglob("*.mdj")))
            until(lambda: running.attachment.metrics()["crypto"]["payloads"] > 10)
            shutil.rmtree(journal)
            until(lambda: running.attachment.metrics()["crypto"]["journal_missed"] > 5)
            until(lambda: list(journal.rglob("*.mdj")))
            [text, *_] = until(lambda: find_losses(running.attachment))
        report = running.report
    assert str(journal) in text
    assert running.exit_code == Exit.STREAM_FAILED
    assert report is not None
    assert report["streams"]["crypto"]["state"] == "stopped"
    assert list(journal.rglob("*.mdj.zst")), "what followed is there"
