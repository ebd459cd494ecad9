"""A run whose journal lacks payloads is no success."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
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


def remove(journal: Path, _: int) -> None:
    shutil.rmtree(journal)


def cut(journal: Path, _: int) -> None:
    [segment] = journal.rglob("*.mdj")
    os.truncate(segment, 0)


def kill_and_remove(journal: Path, feed: int) -> None:
    """Leave the successor of the feed nothing of its journal."""
    os.kill(feed, signal.SIGKILL)
    shutil.rmtree(journal)


@pytest.mark.parametrize("lose", [remove, cut, kill_and_remove])
def test_a_run_whose_journal_is_lost_says_so_and_does_not_end_with_0(
    tmp_path: Path, lose: Callable[[Path, int], None]
) -> None:
    journal = tmp_path / "journal"
    with simulator("--rate", "500") as sim:
        values = settings(sim, tmp_path, streams=["crypto"], workers=1, journal=str(journal))
        with engine(values) as running:
            until(lambda: list(journal.rglob("*.mdj")))
            until(lambda: running.attachment.metrics()["crypto"]["payloads"] > 10)
            lose(journal, running.attachment.metrics()["crypto"]["pid"])
            until(lambda: running.attachment.metrics()["crypto"]["journal_missed"] > 5)
            until(lambda: list(journal.rglob("*.mdj")))
            [text, *_] = until(lambda: find_losses(running.attachment))
        report = running.report
    assert str(journal) in text
    assert running.exit_code == Exit.STREAM_FAILED
    assert report is not None
    assert report["streams"]["crypto"]["state"] == "stopped"
    assert list(journal.rglob("*.mdj.zst")), "what followed is there"
