"""Commit what the feeds of a dead run had received: everything was killed at once, and nobody took over.

A recorder calls it once the engine and its feeds are dead. Then it records the rows, which are new in the
frames. Batches are decoded in its own process.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mdstream.config import HandoffConfig
from mdstream.errors import MdstreamError
from mdstream.feed import recovery
from mdstream.feed.commit import Committer
from mdstream.feed.journal import FeedJournal, read_progress
from mdstream.feed.pipeline import Pipeline
from mdstream.frames.direct_path import no_direct_path
from mdstream.frames.rundir import read_description, slabs_path, state_path
from mdstream.frames.writer import Limits
from mdstream.pool.pool import WorkerPool
from mdstream.store.journal import journal_path
from mdstream.store.journal_writer import JournalWriter
from mdstream.store.rejects import RejectFile, reject_path
from mdstream.streams import STREAMS
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

_NO_LIMIT = 1 << 50
"""Rows that are not recorded yet must not be dropped to keep a frame small."""
_CHUNK_BYTES = 4_000_000


async def commit_leftovers(run: Path) -> None:
    """Commit the batches in the slabs of a dead run. Logs what cannot be committed."""
    for stream in read_description(run).get("streams", ()):
        try:
            state = FeedState(state_path(run, stream), write=True)
            left = recovery.find(slabs_path(run), stream, state).payloads
            if left:
                await _commit(run, stream, state)
                log.warning("%s: committed %d payloads that the killed feed had received", stream, left)
        except (MdstreamError, OSError) as error:
            log.error("%s: payloads that the killed feed had received are not recorded: %s", stream, error)


async def _commit(run: Path, stream: str, state: FeedState) -> None:
    facts, spec = read_description(run), STREAMS[stream]
    rejects = RejectFile(
        reject_path(facts.get("rejects", ""), facts["run"], stream), lost=state["rejects_lost"]
    )
    pool, journal = WorkerPool(0, 0.0), None
    await pool.start(bars=spec.bar_rules is not None)
    try:
        limits = Limits(_NO_LIMIT, _CHUNK_BYTES, _NO_LIMIT)
        committer = Committer(run, spec, state, limits, rejects, pool.builders, no_direct_path)
        if spec.bar_rules is not None:
            rows = committer.committed_rows
            committer.restore_bars(await pool.rebuild_partials(str(run), stream, rows))
        if folder := facts.get("journal"):
            path = journal_path(folder, facts["run"], stream)
            journal = FeedJournal(JournalWriter(path, read_progress(state)), pool)
        pipeline = Pipeline(run, stream, HandoffConfig(), pool, committer, lambda messages: None, journal)
        pipeline.recover()
        await pipeline.finish()
        committer.close()
    finally:
        await pool.close()
