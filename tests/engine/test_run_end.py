from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from mdstream.engine import run_end
from mdstream.engine.feed_process import FeedProcess
from mdstream.engine.feed_state import Stage
from mdstream.errors import Exit
from mdstream.frames.rundir import RunDirectory, slabs_path, state_path
from mdstream.handoff.slab import Slab
from mdstream.recording.process import RecorderProcess
from mdstream.recording.recorder_state import RecorderLock
from mdstream.streams.spec import PayloadKind
from mdstream.telemetry.state import FeedState


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory(tmp_path) as directory:
        yield directory


class EndedFeed:
    """A feed that has ended, with the attributes that the end of a run uses."""

    def __init__(self, stage: Stage = Stage.STOPPED, code: int = 0, run: Path | None = None) -> None:
        self.stream, self.stage, self.exit_code = "stocks", stage, code
        if run is not None:
            self.state = FeedState.create(state_path(run, "stocks"))


def make_feed(*arguments: Any) -> FeedProcess:
    return cast(FeedProcess, EndedFeed(*arguments))


def test_what_a_feed_left_is_counted_once_and_its_memory_is_free(directory: RunDirectory) -> None:
    feed = make_feed(Stage.FAILED, 1, directory.path)
    assert not run_end.has_leftovers(directory.path, feed)
    slab = Slab.create(slabs_path(directory.path) / "stocks-0", 4096)
    slab.begin(1)
    for payload in (b"[1]", b"[2,3]"):
        slab.append(payload, PayloadKind.JSON, 0)
    slab.seal()
    incomplete = [slabs_path(directory.path) / name for name in ("stocks-0.result", "stocks-1")]
    for path in incomplete:
        path.touch()
    assert run_end.has_leftovers(directory.path, feed)
    assert all(path.exists() for path in incomplete), "looking changes nothing"
    run_end.settle_leftovers(directory.path, feed)
    assert feed.state["payloads_received"] == 2
    assert feed.state["bytes_received"] == 8
    assert not any(path.exists() for path in (slab.path, *incomplete))
    assert not run_end.has_leftovers(directory.path, feed)


@pytest.mark.parametrize(
    ("feeds", "is_recorded", "code"),
    [
        ([], True, Exit.OK),
        ([make_feed()], True, Exit.OK),
        ([make_feed()], False, Exit.STREAM_FAILED),
        ([make_feed(), make_feed(Stage.FAILED, Exit.CREDENTIALS)], True, Exit.CREDENTIALS),
        ([make_feed(Stage.FAILED, Exit.CONFIG), make_feed(Stage.FAILED, Exit.CONFIG)], True, Exit.CONFIG),
        ([make_feed(Stage.FAILED, Exit.CONFIG), make_feed(Stage.FAILED, -9)], True, Exit.STREAM_FAILED),
        ([make_feed(Stage.FAILED, -9)], True, Exit.STREAM_FAILED),
    ],
)
def test_a_reason_that_all_failed_streams_share_is_that_of_the_run(
    feeds: list[FeedProcess], is_recorded: bool, code: Exit
) -> None:
    assert run_end.exit_code(feeds, is_recorded) is code


@pytest.mark.cases("M8")
def test_a_journal_that_lacks_payloads_is_no_success(directory: RunDirectory) -> None:
    feed = make_feed(Stage.STOPPED, 0, directory.path)
    assert run_end.is_journaled([feed])
    feed.state["journal_missed"] = 3
    assert not run_end.is_journaled([feed])


class Recorder:
    """A recorder that finishes or does not finish."""

    pid = 4711

    def __init__(self, finishes: bool) -> None:
        self.finishes = finishes

    def finish(self, timeout_s: float, is_aborted: Any) -> bool:
        return self.finishes


@pytest.mark.parametrize("finishes", [True, False])
def test_the_folder_of_a_run_stays_as_long_as_it_is_not_recorded(tmp_path: Path, finishes: bool) -> None:
    recorder = cast(RecorderProcess, Recorder(finishes))
    with RunDirectory(tmp_path) as directory:
        assert run_end.finish_recording(directory, recorder, 1.0, lambda: False) is finishes
    assert directory.path.exists() is not finishes


def test_a_recorder_that_somebody_else_started_is_waited_for(directory: RunDirectory) -> None:
    asked = 0

    def is_aborted() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    assert run_end.finish_recording(directory, None, 60.0, is_aborted)
    with RecorderLock(directory.path):
        assert not run_end.finish_recording(directory, None, 60.0, is_aborted)
    assert asked == 3
    directory._abandoned = False
