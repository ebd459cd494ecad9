"""The end of a run, once its feeds have ended: leftovers, the rest of the recording, the exit code."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mdstream.engine.feed_process import FeedProcess
from mdstream.engine.feed_state import Stage
from mdstream.errors import UNRECOVERABLE, Exit
from mdstream.feed import recovery
from mdstream.frames import rundir
from mdstream.frames.rundir import RunDirectory, slabs_path
from mdstream.recording.process import RecorderProcess
from mdstream.system.clock import Awake

log = logging.getLogger(__name__)

_POLL_S = 0.1


def has_leftovers(run: Path, feed: FeedProcess) -> bool:
    """Return whether a feed that has ended left payloads that were received but not committed."""
    return bool(recovery.find(slabs_path(run), feed.stream, feed.state).pending)


def settle_leftovers(run: Path, feed: FeedProcess) -> None:
    """Count the payloads that a feed left in its slabs when it ended for good, and free their memory."""
    leftovers = recovery.find(slabs_path(run), feed.stream, feed.state)
    recovery.settle(feed.state, leftovers.pending)
    leftovers.remove_incomplete()
    for slab in (*leftovers.pending, *leftovers.free):
        slab.unlink()


def finish_recording(
    directory: RunDirectory,
    recorder: RecorderProcess | None,
    timeout_s: float,
    is_aborted: Callable[[], bool],
) -> bool:
    """Wait until all of an ended run is recorded, by `recorder` or by a recorder that a user started.

    Return whether it is. If not, the run's folder, unless removed, stays when `directory` closes.
    """
    if recorder is not None:
        finished = recorder.finish(timeout_s, is_aborted)
    else:
        awake = Awake()
        while rundir.has_recorder(directory.path) and not is_aborted() and awake.now() < timeout_s:
            time.sleep(_POLL_S)
        finished = not rundir.has_recorder(directory.path)
    if not finished and not directory.is_removed:
        directory.abandon()
        at_work = f" Recorder pid {recorder.pid} continues." if recorder else ""
        log.warning(
            "recording is incomplete; run folder %s is kept.%s The next `mdstream run` or "
            "`mdstream record --run %s` finishes what the recorder does not",
            directory.path,
            at_work,
            directory.run,
        )
    return finished


def give_up_recording(recorder: RecorderProcess | None) -> None:
    """End the recorder of a run whose folder was removed: there is nothing left to record."""
    if recorder is not None:
        recorder.give_up()


def is_journaled(feeds: Iterable[FeedProcess]) -> bool:
    """Return whether the journal, if there is one, has every payload."""
    return not any(feed.state["journal_missed"] for feed in feeds)


def exit_code(feeds: Iterable[FeedProcess], is_kept: bool) -> Exit:
    """Return the code that a run ends with, unless it was aborted.

    If all failed streams share one unrecoverable code, that is it. Otherwise any failed stream makes it
    STREAM_FAILED, and so does a recording or a journal that is not complete (`is_kept` is False then).
    """
    codes = {feed.exit_code for feed in feeds if feed.stage is Stage.FAILED}
    if not codes:
        return Exit.OK if is_kept else Exit.STREAM_FAILED
    code = codes.pop()
    return Exit(code) if not codes and code in UNRECOVERABLE else Exit.STREAM_FAILED
