"""Recording a run: rows of its frames to Delta tables, each exactly once, whatever is killed.

    heads of all frames ─► rows that are new ─► a ticket a frame ─► a worker commits them ─► state
          ▲ every half second                      every few seconds, or as a chunk is full      │
          └──────────────────────────────────────────────────────────────────────────────────────┘

1. How far a frame is recorded stands in its table, so that a recorder that starts over knows it.
2. Rows of one frame go to the table in their order, one ticket at a time; frames share the workers.
3. When the run has ended, or its engine is dead, what is left is recorded, and a dead run's folder removed.

The recorder only reads the frames: the engine neither waits for it nor notices that it dies.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mdstream.config import StoreConfig
from mdstream.errors import MdstreamError, NoRunError, StoreError
from mdstream.frames import rundir
from mdstream.frames.head import Head
from mdstream.frames.layout import is_keyed, read_schema
from mdstream.handoff.record_ticket import CompactTicket, RecordTicket
from mdstream.pool.pool import WorkerPool
from mdstream.recording.state import Recorded, RecorderLock, RecorderState, write
from mdstream.store.objects import check_object_store, storage_options

log = logging.getLogger(__name__)

MOST_ROWS = 500_000
"""Rows of a ticket: what a worker holds in memory."""

COMPACT_COMMITS = 100
"""Commits to a table after which its small files are made large ones."""

_LOOK_S = 0.5
_AGAIN_S = 2.0
"""After which a commit that failed is tried again, at least."""

_SETTLE_S = 2.0
"""How long the feeds of a killed engine may take to end."""
_TASK_TIMEOUT_S = 300.0


class Recorder:
    """The recorder of one run. `tell` is called with the state whenever it has changed."""

    # The mutable state: how far each frame is recorded, when its rows are due, who is at it, and what
    # troubles it; commits since a table was compacted; since when the engine is dead; after a stop, how
    # many rows each frame had then.

    def __init__(
        self, run: Path, store: StoreConfig, tell: Callable[[RecorderState], None] = lambda state: None
    ) -> None:
        self.state = RecorderState(store.path, os.getpid())
        self._run = run
        self._store = store
        self._tell = tell
        self._options = storage_options(store.path)
        self._heads: dict[str, Head] = {}
        self._due: dict[str, float] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._fresh: dict[str, int] = {}
        self._dead_since = 0.0
        self._troubles: dict[str, str] = {}
        self._failure: BaseException | None = None
        self._stop = False
        self._stops_at: dict[str, int] | None = None

    def stop(self) -> None:
        """Record what there is now, and end."""
        self._stop = True

    async def run(self) -> RecorderState:
        """Record until the run is over, and all of it is in the store.

        Raises `ConfigError` where the run has a recorder already, `NoRunError` where it is gone.
        """
        if not self._run.exists():
            raise NoRunError(f"no run at {self._run}")
        with RecorderLock(self._run):
            pool = WorkerPool(self._store.workers, _TASK_TIMEOUT_S, kernels=False)
            await pool.start(bars=False)
            try:
                await self._record(pool)
            finally:
                for task in self._busy.values():
                    task.cancel()
                await asyncio.gather(*self._busy.values(), return_exceptions=True)
                await pool.close()
            if self.state.finished and not rundir.is_alive(self._run):
                rundir.remove(self._run)
        return self.state

    async def _record(self, pool: WorkerPool) -> None:
        while True:
            if self._failure is not None:
                raise self._failure
            over, stop = self._is_over(), self._stop  # before looking for rows
            if stop and self._stops_at is None:
                self._stops_at = {}
            if over:  # all that is left is recorded, and no more comes
                self._stops_at = None
            self._look(pool, hurry=over or stop)
            if (over or stop) and not self._busy and not self._pending():
                break
            if stop and self._troubles:  # nothing more can be had by waiting
                over = False
                break
            if self._busy and (over or stop):
                await asyncio.wait(self._busy.values(), timeout=_LOOK_S)
            else:
                await asyncio.sleep(_LOOK_S)
            self._publish()
        await self._compact_all(pool)
        self.state.finished = over
        self._publish()

    # -- frames

    def _look(self, pool: WorkerPool, hurry: bool) -> None:
        """Begin with whatever is due."""
        for folder in sorted((self._run / "frames").iterdir()):
            if folder.name not in self._heads and _is_recorded(folder):
                self._heads[folder.name] = Head(folder, write=False)
                self._due[folder.name] = 0.0
        now = time.monotonic()
        for name in self._heads:
            soon = (hurry or self._is_much(name)) and name not in self._troubles
            if name in self._busy or (now < self._due[name] and not soon):
                continue
            known = self.state.frames.get(name)
            if known is not None and self._rows(name) <= known.past:
                continue
            self._due[name] = now + self._store.every_s
            task = asyncio.ensure_future(self._bring(pool, name))
            self._busy[name] = task
            task.add_done_callback(partial(self._done, name))

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        del self._busy[name]
        if not task.cancelled():
            self._failure = self._failure or task.exception()

    def _is_much(self, name: str) -> bool:
        known = self.state.frames.get(name)
        return known is not None and self._heads[name].rows - known.past >= MOST_ROWS

    def _pending(self) -> bool:
        """Whether there are rows that are not recorded."""
        frames = self.state.frames
        return any(self._rows(name) > (frames[name].past if name in frames else 0) for name in self._heads)

    def _rows(self, name: str) -> int:
        """Return how many rows of a frame to record: all, or those that were there at the stop."""
        rows = self._heads[name].rows
        return rows if self._stops_at is None else min(rows, self._stops_at.setdefault(name, rows))

    async def _bring(self, pool: WorkerPool, name: str) -> None:
        """Bring what is new of a frame into its table."""
        try:
            known = self.state.frames.get(name)
            if known is None:
                told = await pool.find_recorded(self._ticket(name, Recorded(), 0))
                known = Recorded(told or self._first_row(name), told)
                self.state.frames[name] = known
            while (rows := self._rows(name)) > known.past:
                ticket = self._ticket(name, known, min(rows, known.past + MOST_ROWS))
                receipt = await pool.record(ticket)
                if receipt.past < ticket.first:
                    log.warning(
                        "%s was removed or replaced: what the frame still has is recorded anew",
                        ticket.table,
                    )
                    known.past, known.told = receipt.past or self._first_row(name), receipt.past
                    continue
                known.past = known.told = receipt.past
                known.rows += receipt.rows
                known.missed += receipt.missed
                known.unstorable += receipt.unstorable
                known.commits += receipt.rows > 0
                self._fresh[name] = self._fresh.get(name, 0) + (receipt.rows > 0)
                if receipt.missed:
                    log.error(
                        "%s: %d rows were dropped before they were recorded: let frames keep more "
                        "(frames.retention_mb)",
                        name,
                        receipt.missed,
                    )
                if receipt.unstorable:
                    log.warning(
                        "%s: %d rows cannot be stored and were left out: %s",
                        name,
                        receipt.unstorable,
                        "; ".join(receipt.reasons),
                    )
                self._trouble(name, "")
                if rows - known.past < MOST_ROWS:
                    break
            if self._fresh.get(name, 0) >= COMPACT_COMMITS:
                await self._compact(pool, name)
        except MdstreamError as error:
            self._due[name] = time.monotonic() + max(_AGAIN_S, self._store.every_s)
            self._trouble(name, str(error))

    def _first_row(self, name: str) -> int:
        """The oldest row that the frame keeps: a recorder that comes late begins there."""
        head = self._heads[name]
        return head.entry(head.first).start_row if head.end > head.first else 0

    def _ticket(self, name: str, known: Recorded, past: int) -> RecordTicket:
        feed = self._info().get("feeds", {}).get(name.partition(".")[0], "")
        return RecordTicket(
            str(self._run),
            name,
            known.past,
            past,
            known.told,
            table_path(self._store.path, name),
            feed,
            self._options,
        )

    # -- tables

    async def _compact(self, pool: WorkerPool, name: str) -> None:
        self._fresh[name] = 0
        table = table_path(self._store.path, name)
        gone = await pool.compact(CompactTicket(table, self._store.keep_hours, self._options))
        log.debug("%s: %d small files made large ones", name, gone)

    async def _compact_all(self, pool: WorkerPool) -> None:
        for name, commits in list(self._fresh.items()):
            if commits > 1:
                try:
                    await self._compact(pool, name)
                except MdstreamError as error:  # the rows are there, if in small files
                    log.warning("%s", error)

    # -- the run

    def _info(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._run / "run.json").read_text())
        return found

    def _is_over(self) -> bool:
        """Whether no more rows will come: the run has ended, or its engine is dead and so are its feeds."""
        if self._info().get("ended"):
            return True
        if rundir.is_alive(self._run):
            self._dead_since = 0.0
            return False
        self._dead_since = self._dead_since or time.monotonic()
        return time.monotonic() - self._dead_since >= _SETTLE_S

    def _trouble(self, name: str, text: str) -> None:
        """What troubles a frame, if anything. Of several, the one that came first is told."""
        if text:
            self._troubles[name] = text
        else:
            self._troubles.pop(name, None)
        told = next(iter(self._troubles.values()), "")
        if told != self.state.trouble:
            self.state.trouble = told
            log.warning("%s", told or "recording goes on")

    def _publish(self) -> None:
        try:
            write(self._run, self.state)
        except OSError as error:  # shared memory is full; the state is for others to see
            log.debug("recorder.json: %s", error)
        self._tell(self.state)


def table_path(store: str, frame: str) -> str:
    """Where the Delta table of a frame is."""
    return f"{store.rstrip('/')}/live/{frame}"


def _is_recorded(folder: Path) -> bool:
    """Whether a frame is one whose rows only come, and of a stream."""
    if folder.name.startswith("telemetry.") or not (folder / "head").exists():
        return False
    return not is_keyed(read_schema(folder))


def check_store(path: str) -> None:
    """Raise `StoreError` where no store can be: better told before a run than after."""
    if "://" in path:
        check_object_store(path)
        return
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".mdstream-writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StoreError(f"store: cannot write in {path}: {error.strerror}") from error
