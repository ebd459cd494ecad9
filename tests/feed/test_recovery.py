"""What the killed feeds of a dead run had received comes into its journal with the next start."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mdstream.engine.preparation import journal_dead_runs
from mdstream.frames.rundir import RunDirectory, slabs_path, state_path
from mdstream.handoff.slab import Slab
from mdstream.store.journal import journal_path, read_entries
from mdstream.store.journal_writer import JournalWriter
from mdstream.streams.spec import PayloadKind
from mdstream.telemetry.state import FeedState


def make_dead_run(root: Path, journal: Path | None) -> str:
    """Leave a run whose processes are all dead: batch 1 is committed, 2 sealed, 3 being filled."""
    directory = RunDirectory(root)
    directory.describe(streams=["stocks", "news"], journal=str(journal or ""))
    state = FeedState.create(state_path(directory.path, "stocks"))
    for sequence in (1, 2, 3):
        slab = Slab.create(slabs_path(directory.path) / f"stocks-{sequence}", 4096)
        slab.begin(sequence)
        for index in range(2):
            slab.append(f"[{sequence},{index}]".encode(), PayloadKind.JSON, sequence)
        if sequence < 3:
            slab.seal()
    state["sequence"] = 1
    os.close(directory._lock)
    return directory.run


@pytest.mark.cases("M2")
@pytest.mark.parametrize("written", [0, 1, 2])
def test_the_next_start_journals_what_everything_that_was_killed_had_received(
    tmp_path: Path, written: int
) -> None:
    journal, root = tmp_path / "journal", tmp_path / "runs"
    root.mkdir()
    run = make_dead_run(root, journal)
    writer = JournalWriter(journal_path(str(journal), run, "stocks"))
    for sequence in range(1, written + 1):
        writer.write(Slab.open(next(root.glob(f"*/slabs/stocks-{sequence}"))), sequence)
    for _ in range(2):  # a second start finds nothing new
        journal_dead_runs(root)
    found = [json.loads(entry.payload) for entry in read_entries(journal / run / "stocks")]
    assert found == [[s, i] for s in range(1, 4) if s > 1 or written for i in range(2)]


def test_a_dead_run_without_a_journal_or_with_a_damaged_description_is_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_dead_run(tmp_path, None)
    journal_dead_runs(tmp_path)
    assert not caplog.records
    [description] = tmp_path.glob("*/run.json")
    description.write_text("{")
    journal_dead_runs(tmp_path)
    [record] = caplog.records
    assert "run.json cannot be read" in record.getMessage()
