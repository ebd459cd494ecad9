"""Recording of a run: rows of its frames become rows of Delta tables, each exactly once, even after kills.

    heads of all frames ─► new rows ─► one ticket per frame ─► a worker commits them ─► state
          ▲ every half second                  every few seconds, or as soon as a chunk is full   │
          └───────────────────────────────────────────────────────────────────────────────────────┘

1. The table of a frame holds how far the frame is recorded, and how many rows are missed. So a restarted
   recorder knows both. If a frame has no table yet, it knows where an earlier recorder began.
2. Rows of one frame are stored in their order, one ticket at a time. Frames share the workers.
3. Tables without new rows are looked at once a minute, and all at the end. What was removed is recorded
   again as far as the frames still have it.
4. When the run has ended, or its engine is dead, the rest is recorded. A dead run's folder is then removed.

The recorder only reads the frames: the engine neither waits for it nor notices if it dies.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from mdstream.config import StoreConfig
from mdstream.errors import MdstreamError, NoRunError, NoWorkersError
from mdstream.frames import rundir
from mdstream.frames.head import Head
from mdstream.frames.layout import is_keyed, read_schema
from mdstream.handoff.record_ticket import CompactTicket, RecordReceipt, RecordTicket
from mdstream.pool.pool import WorkerPool
from mdstream.recording.recorder_state import (
    Recorded,
    RecorderLock,
    RecorderState,
    read_frames,
    resume,
    write,
)
from mdstream.store.objects import storage_options

log = logging.getLogger(__name__)

MOST_ROWS = 500_000
"""Most rows of a ticket: a worker holds them in memory."""

COMPACT_COMMITS = 100
"""Commits to a table after which its small files are merged to large ones."""

_LOOK_S = 0.5
DIVIDE_AFTER = 2
"""Failed attempts to store rows after which those that the table refuses become rejects."""

_AGAIN_S = 2.0
"""Least time until a failed commit is repeated."""

SAY_S = 60.0
"""Least time between two reasons why recording does not proceed, while it does not."""

CHECK_S = 60.0
"""Seconds after which a table without new rows is looked at: it may have been removed."""

_SETTLE_S = 2.0
"""How long the feeds of a killed engine may take to end."""
_TASK_TIMEOUT_S = 300.0
_REBUILD_S = 60.0
"""How long workers that die as they start (a machine short of memory) are started again."""


class Recorder:
    """Records one run. `on_change` is called with the state whenever it has changed.

    `commit_leftovers` commits what the feeds had received, when everything else was killed at once.
    """

    # Written while the run is recorded. Maps are by name of a frame.
    state: RecorderState
    """How far each frame is recorded, for observers too."""
    _heads: dict[str, Head]
    _due: dict[str, float]
    """When its next rows are due, on the monotonic clock."""
    _check_at: dict[str, float]
    """When to look whether its table is still there, on the monotonic clock."""
    _tasks: dict[str, asyncio.Task[Any]]
    _uncompacted: dict[str, int]
    """Commits since its table was compacted."""
    _failures: dict[str, int]
    """Attempts to store its next rows that failed."""
    _troubles: dict[str, str]
    """What keeps it from being recorded; the oldest first."""
    _said_at: float
    """When such a reason was published last, on the monotonic clock."""
    _failure: BaseException | None
    """An unexpected error of a task; it ends the recorder."""
    _dead_since: float
    """When the engine was first seen dead, on the monotonic clock; 0 while it is alive."""
    _stops_at: dict[str, int] | None
    """Rows that the frame had at the stop: later ones are not recorded. None if there was no stop."""

    # Written by `run`.
    _earlier: dict[str, Recorded]
    """What an earlier recorder of this run has noted for this store."""
    _commit_leftovers: Callable[[Path], Awaitable[None]] | None

    # Written by `stop`.
    _stop: bool

    def __init__(
        self,
        run: Path,
        store: StoreConfig,
        on_change: Callable[[RecorderState], None] = lambda state: None,
        commit_leftovers: Callable[[Path], Awaitable[None]] | None = None,
    ) -> None:
        self.state = RecorderState(store.path, os.getpid())
        self._run = run
        self._store = store
        self._on_change = on_change
        self._commit_leftovers = commit_leftovers
        self._options = storage_options(store.path)
        self._heads, self._due, self._tasks, self._check_at = {}, {}, {}, {}
        self._uncompacted, self._troubles, self._failures, self._earlier = {}, {}, {}, {}
        self._failure = None
        self._stops_at = None
        self._dead_since = self._said_at = 0.0
        self._stop = False

    def stop(self) -> None:
        """Record the rows that exist now, then end."""
        self._stop = True

    async def run(self) -> RecorderState:
        """Record until the run has ended and all its rows are in the store.

        Raises `ConfigError` if the run has a recorder already, and `NoRunError` if it does not exist.
        """
        if not self._run.exists():
            raise NoRunError(f"no run at {self._run}")
        with RecorderLock(self._run):
            self._earlier = read_frames(self._run, self._store.path)
            pool = WorkerPool(self._store.workers, _TASK_TIMEOUT_S, kernels=False, rebuild_s=_REBUILD_S)
            await pool.start(bars=False)
            try:
                await self._record(pool)
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)
                await pool.close()
            if self.state.finished and not rundir.is_alive(self._run):
                rundir.remove(self._run)
        return self.state

    async def _record(self, pool: WorkerPool) -> None:
        while True:
            if self._failure is not None:
                raise self._failure
            over, stop = self._is_over(), self._stop  # before looking for rows
            if over and self._commit_leftovers is not None and not self._read_run().get("ended"):
                await self._commit_leftovers(self._run)
                self._commit_leftovers = None
            if stop and self._stops_at is None:
                self._stops_at = {}
            if over:  # all remaining rows are recorded, and no more come
                self._stops_at = None
            self._start_due(pool, hurry=over or stop)
            is_done = (over or stop) and not self._tasks and not self._has_unrecorded_rows()
            if is_done and await self._check_all(pool):
                break
            if stop and self._troubles:  # waiting would not help
                over = False
                break
            if self._tasks and (over or stop):
                await asyncio.wait(self._tasks.values(), timeout=_LOOK_S)
            else:
                await asyncio.sleep(_LOOK_S)
            self._publish()
        await self._compact_all(pool)
        self.state.finished = over
        self._publish()

    # -- frames

    def _start_due(self, pool: WorkerPool, hurry: bool) -> None:
        """Start a task for each frame that is due; with `hurry`, for each that has new rows."""
        for folder in sorted((self._run / "frames").iterdir()):
            if folder.name not in self._heads and _is_recorded(folder):
                self._heads[folder.name] = Head(folder, write=False)
                self._due[folder.name] = 0.0
        now = time.monotonic()
        for name in self._heads:
            soon = (hurry or self._has_full_ticket(name)) and name not in self._troubles
            if name in self._tasks or (now < self._due[name] and not soon):
                continue
            known = self.state.frames.get(name)
            job: Callable[[WorkerPool, str], Coroutine[Any, Any, Any]] = self._record_frame
            if known is not None and self._rows_to_record(name) <= known.past:
                if now < self._check_at[name]:
                    continue
                job = self._check_frame
            self._due[name] = now + self._store.every_s
            self._check_at[name] = now + CHECK_S
            task = asyncio.ensure_future(job(pool, name))
            self._tasks[name] = task
            task.add_done_callback(partial(self._finish_task, name))

    def _finish_task(self, name: str, task: asyncio.Task[Any]) -> None:
        del self._tasks[name]
        if not task.cancelled():
            self._failure = self._failure or task.exception()

    def _has_full_ticket(self, name: str) -> bool:
        known = self.state.frames.get(name)
        return known is not None and self._heads[name].rows - known.past >= MOST_ROWS

    def _has_unrecorded_rows(self) -> bool:
        """Return whether any frame has rows that are not recorded."""
        frames = self.state.frames
        return any(self._rows_to_record(n) > frames.get(n, Recorded()).past for n in self._heads)

    def _rows_to_record(self, name: str) -> int:
        """Return how many rows of a frame to record: all, or those that it had at the stop."""
        rows = self._heads[name].rows
        return rows if self._stops_at is None else min(rows, self._stops_at.setdefault(name, rows))

    async def _record_frame(self, pool: WorkerPool, name: str) -> None:
        """Store the new rows of a frame in its table."""
        try:
            known = self.state.frames.get(name)
            if known is None:
                found = await pool.find_recorded(self._ticket(name, Recorded(), 0))
                known = resume(found, self._earlier.get(name), self._heads[name].first_row)
                self.state.frames[name] = known
            while (rows := self._rows_to_record(name)) > known.past:
                ticket = self._ticket(name, known, min(rows, known.past + MOST_ROWS))
                receipt = await pool.record(ticket)
                if receipt.past < ticket.first:
                    self._record_again(name, known, receipt)
                    continue
                missed = receipt.lost.missed - known.missed
                unstorable = receipt.lost.unstorable - known.unstorable
                known.past, known.lost = receipt.past, receipt.lost
                if receipt.rows or unstorable:  # otherwise nothing was committed
                    known.table_past = receipt.past
                known.rows += receipt.rows
                known.commits += receipt.rows > 0
                self._uncompacted[name] = self._uncompacted.get(name, 0) + (receipt.rows > 0)
                if missed:
                    log.error(
                        "%s: %d rows were dropped before they were recorded: increase "
                        "frames.retention_mb to keep rows longer",
                        name,
                        missed,
                    )
                if unstorable:
                    log.warning(
                        "%s: %d rows cannot be stored and were left out: %s. They are kept in %s.rejects",
                        name,
                        unstorable,
                        "; ".join(receipt.reasons),
                        name.partition(".")[0],
                    )
                self._failures[name] = 0
                self._set_trouble(name, "")
                if rows - known.past < MOST_ROWS:
                    break
            if self._uncompacted.get(name, 0) >= COMPACT_COMMITS:
                await self._compact(pool, name)
        except NoWorkersError:
            raise  # the recorder ends; its supervisor may start another one
        except MdstreamError as error:
            self._failures[name] = self._failures.get(name, 0) + 1
            self._postpone(name, error)

    async def _check_all(self, pool: WorkerPool) -> bool:
        """Return whether every table has what was recorded in it."""
        for name in list(self.state.frames):
            if not await self._check_frame(pool, name):
                return False
        return True

    async def _check_frame(self, pool: WorkerPool, name: str) -> bool:
        """Return whether a table has what was recorded in it. If not, its frame is recorded again."""
        known = self.state.frames[name]
        if not known.table_past:
            return True
        try:
            found = await pool.find_recorded(self._ticket(name, known, known.past))
        except NoWorkersError:
            raise
        except MdstreamError as error:
            self._postpone(name, error)
            return False
        self._set_trouble(name, "")
        if found.past >= known.table_past:
            return True
        self._record_again(name, known, found)
        return False

    def _record_again(self, name: str, known: Recorded, found: RecordReceipt) -> None:
        """Go back to where a removed or replaced table ends; it may have no rows at all."""
        table = _table_uri(self._store.path, name)
        log.warning("%s was removed or replaced: recording again the rows that are still kept", table)
        known.table_past = found.past
        if found.past:  # an earlier state of the table, such as a backup
            known.past, known.lost = found.past, found.lost
            return
        known.past = max(known.begin, self._heads[name].first_row)
        known.missed, known.unstorable = known.past - known.begin, 0
        if known.missed:
            log.error("%s: %d rows are lost: the frame no longer has them", name, known.missed)

    def _postpone(self, name: str, error: MdstreamError) -> None:
        """Note why a frame cannot be recorded or checked, and try again later."""
        self._due[name] = time.monotonic() + max(_AGAIN_S, self._store.every_s)
        self._set_trouble(name, str(error))

    def _ticket(self, name: str, known: Recorded, past: int) -> RecordTicket:
        feed = self._read_run().get("feeds", {}).get(name.partition(".")[0], "")
        return RecordTicket(
            str(self._run),
            name,
            known.past,
            past,
            known.table_past,
            _table_uri(self._store.path, name),
            feed,
            self._options,
            self._failures.get(name, 0) >= DIVIDE_AFTER,
            known.lost,
        )

    # -- tables

    async def _compact(self, pool: WorkerPool, name: str) -> None:
        self._uncompacted[name] = 0
        table = _table_uri(self._store.path, name)
        removed = await pool.compact(CompactTicket(table, self._store.keep_hours, self._options))
        log.debug("%s: %d small files merged", name, removed)

    async def _compact_all(self, pool: WorkerPool) -> None:
        for name, commits in list(self._uncompacted.items()):
            if commits > 1:
                try:
                    await self._compact(pool, name)
                except MdstreamError as error:  # the rows are stored, only in small files
                    log.warning("%s", error)

    # -- the run

    def _read_run(self) -> dict[str, Any]:
        return rundir.read_description(self._run)

    def _is_over(self) -> bool:
        """Return whether no more rows will come: the run has ended, or its engine and feeds are dead."""
        if self._read_run().get("ended"):
            return True
        if rundir.is_alive(self._run) or rundir.has_feeds(self._run):
            self._dead_since = 0.0
            return False
        self._dead_since = self._dead_since or time.monotonic()
        return time.monotonic() - self._dead_since >= _SETTLE_S

    def _set_trouble(self, name: str, text: str) -> None:
        """Note why a frame is not recorded; empty if it is. Log and publish the oldest such reason.

        Frames that fail together have reasons of their own: these follow each other once a minute at most.
        """
        if text:
            self._troubles[name] = text
        else:
            self._troubles.pop(name, None)
        oldest = next(iter(self._troubles.values()), "")
        now = time.monotonic()
        due = not oldest or not self.state.trouble or now - self._said_at >= SAY_S
        if oldest != self.state.trouble and due:
            self.state.trouble, self._said_at = oldest, now
            log.warning("%s", oldest or "recording resumed")

    def _publish(self) -> None:
        try:
            write(self._run, self.state, self._earlier)
        except OSError as error:  # shared memory is full; only observers miss the state
            log.debug("recorder.json: %s", error)
        self._on_change(self.state)


def _table_uri(store: str, frame: str) -> str:
    """Return the URI of the Delta table of a frame."""
    return f"{store.rstrip('/')}/live/{frame}"


def _is_recorded(folder: Path) -> bool:
    """Return whether a frame is recorded: it belongs to a stream, and its rows are only appended."""
    if folder.name.startswith("telemetry.") or not (folder / "head").exists():
        return False
    return not is_keyed(read_schema(folder))
