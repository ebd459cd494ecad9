"""The journal of one feed: batches written as they are sealed, segments compressed by the workers.

batch ─► JournalWriter ─► segment ─► full, or the stream ends ─► a worker compresses it
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from mdstream.errors import WorkerError
from mdstream.handoff.slab import Slab
from mdstream.pool.pool import WorkerPool
from mdstream.store.journal import has_segment, segment_number
from mdstream.store.journal_writer import JournalProgress, JournalWriter
from mdstream.telemetry.events import EventKind, RunEvent, Severity
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

CLOSE_S = 5.0
"""How long the end of a stream waits for its segments to be compressed."""
_WORDS = ("journal_missed", "journal_sequence", "journal_payloads", "journal_in_segment")
"""The words of a feed's state with its `JournalProgress`."""


def read_progress(state: FeedState) -> JournalProgress:
    """Return what the journal must have, as the last feed of the stream left it."""
    return JournalProgress(*(state[word] for word in _WORDS))


class FeedJournal:
    """Writes a stream's journal, and has its finished segments compressed.

    `report` is called with an event for each loss of what was written.
    """

    # Written only here.
    _added: deque[tuple[Slab, int]]
    """Batches that are not written yet, with their sequences."""
    _compressing: set[asyncio.Task[None]]
    """Running compressions."""

    def __init__(
        self,
        writer: JournalWriter,
        pool: WorkerPool,
        report: Callable[[RunEvent], None] = lambda event: None,
    ) -> None:
        self._writer = writer
        self._pool = pool
        self._report = report
        self._added, self._compressing = deque(), set()

    @property
    def missed(self) -> int:
        """Payloads that could not be written, or are lost."""
        return self._writer.missed

    def publish(self, state: FeedState) -> None:
        """Note in the feed's state what the journal has, for a successor."""
        for word, value in zip(_WORDS, self._writer.progress, strict=True):
            state[word] = value

    @property
    def is_behind(self) -> bool:
        """Whether batches that were added are not written yet."""
        return bool(self._added)

    def add(self, slab: Slab, sequence: int) -> None:
        """Take a sealed batch, to be written before it is committed."""
        self._added.append((slab, sequence))

    def write_added(self) -> bool:
        """Write the batches that were added; return whether there were any."""
        if not self._added:
            return False
        while self._added:
            self._writer.write(*self._added.popleft())
        return True

    def heartbeat(self) -> None:
        """Look for lost segments, and start to compress full ones; call it a few times a second."""
        if loss := self._writer.find_loss():
            self._report_loss(loss)
        for path in self._writer.take_full():
            task = asyncio.get_running_loop().create_task(self._compress(path))
            self._compressing.add(task)
            task.add_done_callback(self._compressing.discard)

    async def close(self) -> None:
        """End the journal, and wait until all of it is compressed, `CLOSE_S` at most."""
        self.heartbeat()
        self._writer.close()
        self.heartbeat()
        if self._compressing:
            _, left = await asyncio.wait(self._compressing, timeout=CLOSE_S)
            for task in left:
                task.cancel()

    async def _compress(self, segment: Path) -> None:
        """Compress a segment. If that fails it stays as it is; readers accept both."""
        try:
            await self._pool.compress(segment)
        except (OSError, WorkerError) as error:
            lost = 0 if has_segment(segment) else self._writer.forget(segment_number(segment))
            if lost:
                self._report_loss(
                    f"{segment} was removed before it was compressed, and the {lost:,} payloads in it are "
                    "missing from the journal"
                )
                return
            log.warning("%s stays uncompressed: %s", segment, error)
        except asyncio.CancelledError:
            log.warning("%s stays uncompressed: the stream ended", segment)
            raise

    def _report_loss(self, loss: str) -> None:
        text = f"journal: {loss}. The run will end with exit code 1"
        log.error("%s", text)
        self._report(RunEvent(EventKind.JOURNAL, text, Severity.ERROR, {"missed": self.missed}))
