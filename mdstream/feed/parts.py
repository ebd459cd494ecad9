"""Make the parts of a feed that write files, by its settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mdstream.feed.assignment import Assignment
from mdstream.feed.commit import Committer
from mdstream.feed.journal import FeedJournal, read_progress
from mdstream.frames.direct_path import MakeDirectPath, no_direct_path
from mdstream.frames.writer import Limits
from mdstream.pool.pool import WorkerPool
from mdstream.store.journal import journal_path
from mdstream.store.journal_writer import JournalWriter
from mdstream.store.rejects import RejectFile, reject_path
from mdstream.streams import STREAMS
from mdstream.telemetry.events import RunEvent
from mdstream.telemetry.state import FeedState


def make_committer(assignment: Assignment, state: FeedState, pool: WorkerPool) -> Committer:
    """Return the writer of a stream's frames and rejects."""
    config, frames, spec = assignment.config, assignment.config.frames, STREAMS[assignment.stream]
    limits = Limits(
        frames.retention_mb * 1_000_000, frames.chunk_mb * 1_000_000, frames.stream_mb * 1_000_000
    )
    path = reject_path(config.rejects, assignment.run_id, spec.name)
    rejects = RejectFile(path, lost=state["rejects_lost"])
    make_direct: MakeDirectPath = partial(pool.make_direct, kernels=config.handoff.kernels)
    if config.workers and not config.adapts:
        make_direct = no_direct_path
    return Committer(assignment.run, spec, state, limits, rejects, pool.builders, make_direct)


def make_journal(
    assignment: Assignment, state: FeedState, pool: WorkerPool, report: Callable[[RunEvent], None]
) -> FeedJournal | None:
    """Return the journal of a stream; None without one."""
    if not (folder := assignment.config.journal):
        return None
    path = journal_path(folder, assignment.run_id, assignment.stream)
    return FeedJournal(JournalWriter(path, read_progress(state)), pool, report)
