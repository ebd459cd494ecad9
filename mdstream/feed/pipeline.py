"""From a received payload to committed rows: slabs, tickets, workers, order.

    offer()/put() ─► slab being filled ─► sealed slabs ─► workers (size + 1 tickets) ─► commit in order
                          ▲                                                                 │
                          └───────────────────────── free slabs ◄──────────────────────────┘

Batching is natural: a slab is handed over as soon as a worker is free for it, and grows while none is.
So a quiet stream has single payloads in its batches and the least delay, a busy one has full slabs.

The number of slabs is bounded. When all are full, `offer` refuses and `put` waits: reading from the socket
pauses, TCP holds the server back, and `stalls` counts it. Slabs that were idle for a while are given back.

Where shared memory has no room for a slab or for rows, idle slabs make way, and what cannot go on waits and
tries again; only when that has lasted `FULL_S` the stream fails.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mdstream.config import HandoffConfig
from mdstream.errors import NoSpaceError, PoisonedBatchError, SharedMemoryError, WorkerError
from mdstream.feed import recovery
from mdstream.feed.commit import Committer
from mdstream.frames.rundir import slab_path
from mdstream.handoff.packing import Packing, unpacked_size
from mdstream.handoff.slab import Slab
from mdstream.handoff.ticket import Found, Receipt, Ticket
from mdstream.pool.pool import WorkerPool
from mdstream.store.journal import JournalWriter
from mdstream.streams.spec import Mark, PayloadKind

log = logging.getLogger(__name__)

FULL_S = 30.0
"""How long shared memory may have no room before the stream fails."""
_AGAIN_S = 0.25
_IDLE_S = 10.0
"""A slab that was not needed for so long is given back."""
_LATE_NS = 500_000_000
_GIVEN_UP = Found(frozenset(), {}, "", "it broke the decoder; kept with the rejects")


@dataclass(slots=True)
class _Batch:
    """A slab on its way, and who waits for its payloads."""

    slab: Slab
    sequence: int
    submit_ns: int = 0
    waiting: dict[int, asyncio.Future[Found]] = field(default_factory=dict)
    result: Receipt | Exception | None = None


class Pipeline:
    """The hand-off of one feed. `failed` is set when shared memory gave out; nothing moves then."""

    # The mutable state: the batch being filled, those that wait, those with the workers (in order);
    # slabs that are free, and how few they were lately; since when there is no room for what; whether
    # a lost connection is still to be noted.

    def __init__(
        self,
        run: Path,
        stream: str,
        config: HandoffConfig,
        pool: WorkerPool,
        committer: Committer,
        on_control: Callable[[list[dict[str, Any]]], None],
        journal: JournalWriter | None = None,
    ) -> None:
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._run = run
        self._stream = stream
        self._config = config
        self._pool = pool
        self._committer = committer
        self._state = committer.state
        self._on_control = on_control
        self._journal = journal
        self._limit = pool.size + 1
        self._free: list[Slab] = []
        self._slabs = 0
        self._idle_slabs = 0
        self._looked = time.monotonic()
        self._full_since: dict[str, float] = {}
        self._filling: _Batch | None = None
        self._gap_due = False
        self._sealed: deque[_Batch] = deque()
        self._working: deque[_Batch] = deque()
        self._next_sequence = self._state["sequence"] + 1
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._kick_due = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._payloads = self._state["payloads_received"]
        self._bytes = self._state["bytes_received"]

    @property
    def queued(self) -> int:
        """Batches that wait for a worker."""
        return len(self._sealed) + max(0, len(self._working) - max(1, self._pool.size))

    @property
    def is_late(self) -> bool:
        """Whether payloads that came a while ago are not in the frames yet."""
        if self._sealed:
            return True
        return bool(self._working) and time.time_ns() - self._working[0].submit_ns > _LATE_NS

    # -- payloads in

    def offer(self, payload: bytes, kind: PayloadKind, recv_ns: int) -> bool:
        """Take a payload of the stream, unless there is no room for it at this moment."""
        batch = self._filling
        if batch is None or not batch.slab.take(payload, kind, recv_ns):
            batch = self._begin(len(payload))
            if batch is None:
                return False
            batch.slab.append(payload, kind, recv_ns)
        self._payloads += 1
        self._bytes += len(payload)
        if not self._kick_due:
            self._kick_soon()
        return True

    async def put(self, payload: bytes, kind: PayloadKind, recv_ns: int) -> None:
        """Take a payload of the stream, waiting for room."""
        self._state["stalls"] += 1
        while not self.offer(payload, kind, recv_ns):
            await self._wait_for_room()

    async def fetch(
        self, body: bytes, kind: PayloadKind, recv_ns: int, packing: Packing = Packing.PLAIN
    ) -> Found:
        """Take a REST body; returns what it held once its rows are in the frames."""
        unpacked = unpacked_size(body, packing)
        while True:
            batch = self._filling
            if batch is None or not batch.slab.fits(len(body), unpacked):
                batch = self._begin(len(body))
            if batch is not None:
                break
            await self._wait_for_room()
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        index = batch.slab.append(body, kind, recv_ns, packing, unpacked)
        batch.waiting[index] = future
        self._state["fetch_payloads_received"] += 1
        self._kick_soon()
        return await future

    def mark_gap(self) -> None:
        """The connection is lost: what comes next does not follow upon what came."""
        self._gap_due = True
        if self._filling is not None:
            self._write_gap_marker(self._filling)

    def tick(self) -> None:
        """Have bars end for which nothing came that tells that they are over."""
        if self._committer.bars_wait:
            batch = self._filling or self._begin(len(Mark.TICK))
            if batch is not None and batch.slab.fits(len(Mark.TICK)):
                batch.slab.append(Mark.TICK.value, PayloadKind.MARK, time.time_ns())
                self._kick_soon()

    def recover(self) -> int:
        """Take up the batches that a killed predecessor left; how many payloads they hold."""
        left = recovery.find(self._run, self._stream, self._state)
        recovery.settle(self._state, left.pending)
        self._payloads = self._state["payloads_received"]
        self._bytes = self._state["bytes_received"]
        self._slabs = len(left.pending) + len(left.free)
        for slab in left.free:
            self._give_back(slab)
        for slab in left.pending:
            slab.seal()
            self._sealed.append(_Batch(slab, slab.sequence))
            self._next_sequence = slab.sequence + 1
            self._idle.clear()
        self._gap_due = True  # what the server sent into the dead feed's socket is gone
        self._dispatch()
        return left.payloads

    async def drain(self) -> None:
        """Submit what is there and wait until all of it is committed."""
        self._seal()
        self._dispatch()
        await self._idle.wait()

    def close(self) -> None:
        """Nothing more will come: give the slabs back."""
        while self._drop_idle():
            pass
        if self._journal is not None:
            self._journal.close()

    def heartbeat(self) -> None:
        """Publish gauges and whatever telemetry waits; called a few times a second."""
        self._publish_counts()
        self._state["pool_busy"] = min(self._pool.busy, max(1, self._pool.size))
        self._state["pool_queue"] = self.queued
        self._state["slabs"] = self._slabs
        self._committer.flush()
        self._trim()
        if self._journal is not None:
            self._state["journal_missed"] = self._journal.missed
            for path in self._journal.take_full():
                task = asyncio.get_running_loop().create_task(self._compress(path))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _compress(self, segment: Path) -> None:
        """Have a worker compress a full segment of the journal; one that cannot be stays as it is."""
        try:
            await self._pool.compress(segment)
        except (OSError, WorkerError) as error:
            log.warning("%s stays uncompressed: %s", segment, error)

    # -- slabs

    def _begin(self, length: int) -> _Batch | None:
        """A new batch with room for `length` bytes at least; None while every slab is in use."""
        self._seal()
        slab = self._take_slab(length + len(Mark.GAP) * self._gap_due)
        if slab is None:
            self._room.clear()
            return None
        slab.begin(self._next_sequence)
        self._filling = _Batch(slab, self._next_sequence)
        self._next_sequence += 1
        self._idle.clear()
        if self._gap_due:
            self._write_gap_marker(self._filling)
        return self._filling

    def _write_gap_marker(self, batch: _Batch) -> None:
        if batch.slab.fits(len(Mark.GAP)):
            batch.slab.append(Mark.GAP.value, PayloadKind.MARK, time.time_ns())
            self._gap_due = False

    def _take_slab(self, length: int) -> Slab | None:
        capacity = self._config.slab_kb * 1024
        if length <= capacity and self._free:
            slab = self._free.pop()  # the last one used is still in cache
            self._idle_slabs = min(self._idle_slabs, len(self._free))
            return slab
        # An ordinary one makes way for a large one.
        if self._slabs >= self._config.slabs and not self._drop_idle():
            return None
        name = f"{self._stream}-{self._next_sequence}"
        try:
            slab = Slab.create(slab_path(self._run, name), max(length, capacity))
        except NoSpaceError as error:
            if self._slabs == len(self._free):  # no other will come back and make room
                self._wait_for_memory("slab", error, self._room.set)
            return None
        self._full_since.pop("slab", None)
        self._slabs += 1
        return slab

    def _give_back(self, slab: Slab) -> None:
        slab.release()
        if slab.capacity > self._config.slab_kb * 1024:
            slab.unlink()
            self._slabs -= 1
        else:
            self._free.append(slab)
        self._room.set()

    def _trim(self) -> None:
        """Give back the slabs that were idle all the time since this was last done."""
        now = time.monotonic()
        if now - self._looked >= _IDLE_S:
            for _ in range(self._idle_slabs - 1):
                self._drop_idle()
            self._looked, self._idle_slabs = now, len(self._free)

    def _drop_idle(self) -> bool:
        """Remove an idle slab; whether there was one."""
        if not self._free:
            return False
        self._free.pop(0).unlink()
        self._slabs -= 1
        return True

    async def _wait_for_room(self) -> None:
        self._publish_counts()
        await self._room.wait()

    def _wait_for_memory(self, what: str, error: NoSpaceError, again: Callable[[], None]) -> None:
        """Call `again` when idle slabs have made way or a moment has passed; fail if that lasts."""
        now = time.monotonic()
        if what not in self._full_since:
            self._full_since[what] = now
            log.warning("%s; waiting up to %.0f s for room", error, FULL_S)
        made_way = self._drop_idle()
        if now - self._full_since[what] > FULL_S:
            self._fail(error)
        else:
            asyncio.get_running_loop().call_later(0.0 if made_way else _AGAIN_S, again)

    # -- tickets

    def _kick_soon(self) -> None:
        """Look for a free worker once the payloads that came together are all in the slab."""
        self._kick_due = True
        loop = asyncio.get_running_loop()
        if self._config.linger_ms:
            loop.call_later(self._config.linger_ms / 1000, self._kick)
        else:
            loop.call_soon(self._kick)

    def _kick(self) -> None:
        self._kick_due = False
        if len(self._working) < self._limit and not self._sealed:
            self._seal()
        self._dispatch()

    def _seal(self) -> None:
        batch, self._filling = self._filling, None
        if batch is not None:
            batch.slab.seal()
            self._sealed.append(batch)

    def _dispatch(self) -> None:
        while self._sealed and len(self._working) < self._limit:
            batch = self._sealed.popleft()
            self._working.append(batch)
            self._submit(batch)

    def _submit(self, batch: _Batch) -> None:
        batch.submit_ns = time.time_ns()
        batch.result = None
        task = asyncio.get_running_loop().create_task(self._work(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, batch: _Batch) -> None:
        ticket = Ticket(
            str(self._run), self._stream, batch.slab.path.name, batch.sequence, self._config.kernels
        )
        try:
            batch.result = await self._pool.run(ticket)
        except Exception as error:
            batch.result = error
        self._commit_ready()

    # -- commit, in order

    def _commit_ready(self) -> None:
        while self._working and self._working[0].result is not None and not self.failed.done():
            batch = self._working[0]
            if isinstance(batch.result, NoSpaceError):  # the worker's: it needed more than its slab
                error, batch.result = batch.result, None  # once: others call this, too
                self._committer.evict()
                self._wait_for_memory("rows", error, partial(self._submit, batch))
                return
            if isinstance(batch.result, Receipt) and not self._committer.fits(batch.result):
                self._committer.discard(batch.result)
                self._submit(batch)
                return
            try:
                self._commit(batch)
            except NoSpaceError as error:
                self._wait_for_memory("rows", error, self._commit_ready)
                return
            except Exception as error:
                self._fail(error)
                return
            self._full_since.pop("rows", None)
            self._working.popleft()
            self._give_back(batch.slab)
        if self._kick_due:
            self._dispatch()  # what is being filled has its time yet
        else:
            self._kick()
        if not self._working and not self._sealed and self._filling is None:
            self._publish_counts()
            self._idle.set()

    def _fail(self, error: Exception) -> None:
        self._publish_counts()
        if not self.failed.done():
            self.failed.set_exception(error)

    def _commit(self, batch: _Batch) -> None:
        result = batch.result
        if isinstance(result, SharedMemoryError | WorkerError) and not isinstance(
            result, PoisonedBatchError
        ):
            raise result  # not the batch's fault: it stays in its slab
        if self._journal is not None:
            self._journal.write(batch.slab, batch.sequence)
        if isinstance(result, Receipt):
            self._committer.commit(batch.slab, result, batch.submit_ns)
            if result.fault:
                log.error(
                    "batch %d: the kernels failed, the fallback decoder took over: %s",
                    batch.sequence,
                    result.fault,
                )
            if result.control:
                self._on_control(list(result.control))
            for index, future in batch.waiting.items():
                self._answer(future, result, index)
            return
        if not isinstance(result, PoisonedBatchError):
            log.error("batch %d: the decoder failed", batch.sequence, exc_info=result)
        log.error("batch %d is given up and kept in %s", batch.sequence, self._committer.rejects.path)
        self._committer.quarantine(batch.slab, batch.sequence, str(result) or repr(result))
        for future in batch.waiting.values():
            if not future.done():
                future.set_result(_GIVEN_UP)

    def _answer(self, future: asyncio.Future[Found], receipt: Receipt, index: int) -> None:
        if not future.done():
            future.set_result(receipt.bodies[index])

    def _publish_counts(self) -> None:
        self._state["payloads_received"] = self._payloads
        self._state["bytes_received"] = self._bytes
