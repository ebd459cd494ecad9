"""From a received payload to committed rows.

    offer()/put() ─► batch being filled ─► sealed batches ─► workers (size + 1 tickets) ─► commit in order
          ▲                                                                                  │
          └───────────────────────── free slabs (`handoff.slabs`) ◄──────────────────────────┘

1. `offer` copies a payload into the slab of the batch that is being filled. While no slab is free it
   refuses, and `put` waits: the socket is not read, and TCP holds the server back.
2. A batch grows until a worker is free; then it is sealed and submitted. So a quiet stream has batches of
   single payloads and the least delay, a busy one has full slabs.
3. Results are committed in the order of the stream, whichever worker is done first. Then the slab is free.
4. If shared memory has no room for a slab or for rows, idle slabs are removed, and batches without room
   wait and are retried. The stream fails when that has lasted `FULL_S`.
5. A sealed batch goes to the journal at once, so that it survives whatever happens to the workers.
6. A batch that breaks its worker twice is quarantined: it is kept with the rejects.

The file is long because all states of a batch, from its filling to its commit, are changed here alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from mdstream.config import HandoffConfig
from mdstream.errors import (
    HalfDoneError,
    NoSpaceError,
    NoWorkersError,
    PoisonedBatchError,
    SharedMemoryError,
)
from mdstream.feed import recovery
from mdstream.feed.batches import Batch, Batches
from mdstream.feed.commit import Committer
from mdstream.feed.journal import FeedJournal
from mdstream.feed.overload import Overload
from mdstream.feed.scaling import Work
from mdstream.frames.rundir import slabs_path
from mdstream.handoff.compression import Compression, decompressed_size
from mdstream.handoff.slabs import SlabPool
from mdstream.handoff.space import Shortages
from mdstream.handoff.ticket import BodyContents, Receipt, Ticket
from mdstream.pool.pool import WorkerPool
from mdstream.streams.spec import Mark, PayloadKind
from mdstream.system.clock import Moment, Span, receipts
from mdstream.telemetry.events import RunEvent

log = logging.getLogger(__name__)

FULL_S = 30.0
"""How long shared memory may have no room before the stream fails."""
_RETRY_S = 0.25
_REST = 40
_LONGEST_REST_S = 0.01
"""The next batch of a stream without a direct path begins so many times later than its last one took, but
not later than this. A lone message is committed at once; those behind it share the cost of a batch.
"""
_QUARANTINED = BodyContents(frozenset(), {}, "", "it broke the decoder; kept with the rejects")


@dataclass(slots=True)
class _Counts:
    """What the stream received since the run began, and what this process has decoded, wherever."""

    payloads: int
    bytes: int
    decoded: Work = field(default_factory=Work)


class Pipeline:
    """The hand-off of one feed. Used only in the feed's event loop."""

    failed: asyncio.Future[None]
    """Done with the error once the stream has failed; no batch is submitted or committed afterwards."""

    # Written by the pipeline alone.
    _batches: Batches
    _is_gap_due: bool
    """Whether the connection was lost, and no batch has a gap marker for it yet."""
    _counts: _Counts
    _dispatch_due: bool
    """Whether a call of `_seal_and_dispatch` is scheduled."""
    _begins_at: float
    """When the next batch may begin, if the feed decodes it the usual way (time of the loop)."""
    _has_room: asyncio.Event
    """Set when a slab may be available again."""
    _shortages: Shortages
    _unusual: int
    """Sequence of the last batch whose first payload could not be committed directly."""

    def __init__(
        self,
        run: Path,
        stream: str,
        config: HandoffConfig,
        pool: WorkerPool,
        committer: Committer,
        on_control: Callable[[list[dict[str, Any]]], None],
        journal: FeedJournal | None = None,
        report: Callable[[RunEvent], None] = lambda event: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.failed = self._loop.create_future()
        self._config = config
        self._pool = pool
        self._committer = committer
        self._on_control = on_control
        self._journal = journal
        self._overload = Overload(report)
        state, capacity = committer.state, config.slab_kb * 1024
        self._slabs = SlabPool(slabs_path(run), stream, config.slabs, capacity, state["stalls"])
        self._new_ticket = partial(Ticket, str(run), stream, kernels=config.kernels and pool.has_kernels)
        self._batches = Batches(state["sequence"] + 1)
        self._is_gap_due = self._dispatch_due = False
        self._counts = _Counts(state["payloads_received"], state["bytes_received"])
        self._begins_at = 0.0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._shortages = Shortages()
        self._unusual = 0

    @property
    def received(self) -> int:
        """Payloads that were received from the stream."""
        return self._counts.payloads

    @property
    def has_work(self) -> bool:
        """Whether payloads wait to be committed."""
        return not self._batches.are_done.is_set()

    @property
    def queued(self) -> int:
        """Batches that wait for a worker."""
        return len(self._batches.sealed) + max(0, len(self._batches.working) - max(1, self._pool.size))

    @property
    def has_backlog(self) -> bool:
        """Whether payloads that were received a while ago are not in the frames yet."""
        return self._batches.are_late

    @property
    def lag_s(self) -> float:
        """Age of the oldest batch that is not committed, without the one that is being filled."""
        return self._batches.lag_s

    @property
    def decoded(self) -> Work:
        """What was decoded since the process began, in this process or in workers."""
        return self._counts.decoded

    # -- payloads in

    def recover(self) -> int:
        """Resume the batches that a killed predecessor left; return how many payloads they hold."""
        state = self._committer.state
        left = recovery.find(self._slabs.folder, self._slabs.stream, state)
        left.remove_incomplete()
        recovery.settle(state, left.pending)
        self._counts = _Counts(state["payloads_received"], state["bytes_received"])
        self._slabs.adopt(left.pending, left.free)
        for slab in left.pending:
            self._append_sealed(self._batches.adopt(slab))
        self._is_gap_due = True  # what the server sent into the dead feed's socket is gone
        self._dispatch()
        return left.payloads

    def offer(self, payload: bytes, kind: PayloadKind, recv_ns: int, is_last: bool = False) -> bool:
        """Take a payload of the stream; return False if there is no room for it now.

        `is_last` says that nothing that arrived with it follows.
        """
        batch = self._batches.filling
        if batch is None and is_last and self._commit_alone(payload, kind, recv_ns):
            return True
        if batch is None or not batch.slab.try_append(payload, kind, recv_ns):
            if (batch := self._begin(len(payload))) is None:
                return False
            batch.slab.append(payload, kind, recv_ns)
        counts = self._counts
        counts.payloads += 1
        counts.bytes += len(payload)
        if not self._dispatch_due:
            self._dispatch_soon()
        return True

    def _commit_alone(self, payload: bytes, kind: PayloadKind, recv_ns: int) -> bool:
        """Decode and commit a payload while there are no batches; return False if it must be in one."""
        batches = self._batches
        if not batches.are_done.is_set() or self._pool.size or self._is_gap_due:
            return False
        if self._journal is not None or self._config.linger_ms:  # it needs a batch, or others may join it
            return False
        if self.failed.done() or (slab := self._slabs.spare(len(payload))) is None:
            return False
        sequence, counts = batches.next_sequence, self._counts
        try:
            cpu_ns = self._committer.commit_alone(slab, sequence, payload, kind, recv_ns)
        except HalfDoneError:
            self._offer_sealed(payload, kind, recv_ns)
            return True
        except Exception as error:
            self._offer_sealed(payload, kind, recv_ns)
            self._fail(error)
            return True
        if cpu_ns is None:
            self._unusual = sequence
            return False
        batches.next_sequence = sequence + 1
        counts.payloads += 1
        counts.bytes += len(payload)
        counts.decoded.add(cpu_ns)
        return True

    def _offer_sealed(self, payload: bytes, kind: PayloadKind, recv_ns: int) -> None:
        """Take a payload that needs a batch of its own, and the usual way; a slab is free for it."""
        self._unusual = self._batches.next_sequence
        batch = self._begin(len(payload))
        assert batch is not None
        batch.slab.append(payload, kind, recv_ns)
        self._counts.payloads += 1
        self._counts.bytes += len(payload)
        self._seal()
        self._dispatch_soon()

    async def put(self, payload: bytes, kind: PayloadKind, recv_ns: int) -> None:
        """Take a payload of the stream, waiting for room."""
        while not self.offer(payload, kind, recv_ns):
            await self._wait_for_room()

    async def put_body(
        self,
        body: bytes,
        kind: PayloadKind,
        recv_ns: int,
        compression: Compression = Compression.PLAIN,
        requested: Collection[str] = (),
    ) -> BodyContents:
        """Take a REST body; return its contents once its rows are in the frames.

        `requested` are the symbols that it was requested for; records of others are rejected. Without them,
        all records count.
        """
        decompressed = decompressed_size(body, compression)
        names = orjson.dumps(sorted(requested)) if requested else b""
        length = len(names) + len(body)
        while True:
            batch = self._batches.filling
            if batch is None or not batch.slab.fits(length, decompressed, 1 + bool(names)):
                batch = self._begin(length)
            if batch is not None:
                break
            await self._wait_for_room()
        future: asyncio.Future[BodyContents] = asyncio.get_running_loop().create_future()
        if names:
            batch.slab.append(names, PayloadKind.REQUESTED, recv_ns)
        index = batch.slab.append(body, kind, recv_ns, compression, decompressed)
        batch.waiting[index] = future
        self._committer.state["fetch_payloads_received"] += 1
        self._dispatch_soon()
        return await future

    def mark_gap(self) -> None:
        """Note that the connection was lost: data is missing before the next payload."""
        self._is_gap_due = True
        if self._batches.filling is not None:
            self._write_gap_marker(self._batches.filling)

    def mark_tick(self) -> None:
        """Close bars by the clock if no later trade closes them."""
        if self._committer.bars_wait:
            batch = self._batches.filling or self._begin(len(Mark.TICK))
            if batch is not None and batch.slab.fits(len(Mark.TICK)):
                batch.slab.append(Mark.TICK.value, PayloadKind.MARK, receipts.now())
                self._dispatch_soon()

    def use_kernels(self) -> None:
        """Let kernels decode from the next batch on, unless the settings rule them out."""
        self._new_ticket = partial(self._new_ticket, kernels=self._config.kernels)
        self._committer.use_kernels()

    async def drain(self) -> None:
        """Submit all payloads, and wait until they are committed."""
        self._seal()
        self._dispatch()
        await self._batches.are_done.wait()

    async def finish(self, last: Awaitable[None] | None = None) -> None:
        """Wait for the `last` payloads, drain, and close. Raises the error that the stream fails with."""

        async def drain() -> None:
            if last is not None:
                await last
            await self.drain()

        drained = asyncio.ensure_future(drain())
        await asyncio.wait([drained, self.failed], return_when=asyncio.FIRST_COMPLETED)
        if self.failed.done():
            drained.cancel()
            self.failed.result()
        await self.close()

    async def close(self) -> None:
        """Remove the slabs, and end the journal. No payload may follow."""
        self._slabs.close()
        if self._journal is not None:
            await self._journal.close()
            self._journal.publish(self._committer.state)

    def heartbeat(self) -> None:
        """Publish gauges and telemetry; call it a few times a second."""
        state = self._committer.state
        self._publish_counts()
        state["pool_busy"] = min(self._pool.busy, self._pool.size)
        state["pool_queue"] = self.queued
        self._check_load()
        self._slabs.trim(time.monotonic())
        state["slabs"] = self._slabs.statistics().existing
        self._committer.flush()
        if self._journal is not None:
            self._journal.heartbeat()
            self._journal.publish(state)

    def _check_load(self) -> None:
        """Report that workers lag behind, or have caught up."""
        batches = self._batches
        self._overload.check(batches.lag_s, batches.count, not self._has_room.is_set(), time.monotonic())

    # -- the batch being filled

    def _begin(self, length: int) -> Batch | None:
        """Begin a batch with room for at least `length` bytes; None while no slab is available."""
        self._seal()
        try:
            slab = self._slabs.take(length + len(Mark.GAP) * self._is_gap_due)
        except NoSpaceError as error:
            self._wait_for_memory("slab", error, self._has_room.set)
            slab = None
        if slab is None:
            self._has_room.clear()
            self._committer.state["stalls"] = self._slabs.statistics().stalls
            return None
        self._shortages.end("slab")
        batch = self._batches.begin(slab)
        if self._is_gap_due:
            self._write_gap_marker(batch)
        return batch

    def _write_gap_marker(self, batch: Batch) -> None:
        if batch.slab.fits(len(Mark.GAP)):
            batch.slab.append(Mark.GAP.value, PayloadKind.MARK, receipts.now())
            self._is_gap_due = False

    def _dispatch_soon(self) -> None:
        """Dispatch once all payloads that arrived together are in the slab."""
        self._dispatch_due = True
        rest_s = self._config.linger_ms / 1000 or (self._begins_at and self._begins_at - self._loop.time())
        if rest_s > 0.0:
            self._loop.call_later(rest_s, self._seal_and_dispatch)
        else:
            self._loop.call_soon(self._seal_and_dispatch)

    def _seal_and_dispatch(self) -> None:
        self._dispatch_due = False
        if len(self._batches.working) <= self._pool.size and not self._batches.sealed:
            self._seal()
        self._dispatch()

    def _seal(self) -> None:
        batch, self._batches.filling = self._batches.filling, None
        if batch is not None:
            self._append_sealed(batch)

    def _append_sealed(self, batch: Batch) -> None:
        batch.slab.seal()
        self._batches.sealed.append(batch)
        if self._journal is not None:
            self._journal.add(batch.slab, batch.sequence)

    def _write_journal(self) -> None:
        """Write the sealed batches, long before they are committed if the workers lag."""
        if self._journal is not None and self._journal.write_added():
            self._journal.publish(self._committer.state)

    # -- to the workers: at most pool.size + 1 tickets out

    def _dispatch(self) -> None:
        sealed, working = self._batches.sealed, self._batches.working
        while sealed and len(working) <= self._pool.size:
            batch = sealed.popleft()
            if self._pool.size or working or not self._commit_directly(batch):
                working.append(batch)
                self._submit(batch)
        if (
            self._journal is not None and self._journal.is_behind
        ):  # after the tickets: the workers need not wait for the disk
            self._loop.call_soon(self._write_journal)

    def _commit_directly(self, batch: Batch) -> bool:
        """Decode and commit a usual batch here and now; return False if it must take the usual way."""
        if batch.waiting or batch.is_recovered or batch.sequence == self._unusual or self.failed.done():
            return False
        batch.span = Span(batch.span.begun, Moment.now())
        self._write_journal()
        try:
            cpu_ns = self._committer.commit_directly(batch.slab, batch.sequence, batch.span)
        except NoSpaceError:
            return False  # the usual way waits for room, and skips what is done
        except Exception as error:
            self._fail(error)
            return False
        if cpu_ns is None:
            return False
        self._counts.decoded.add(cpu_ns)
        self._slabs.release(batch.slab)
        self._has_room.set()
        if self._batches.note_done():
            self._publish_counts()
        return True

    def _submit(self, batch: Batch) -> None:
        batch.span = Span(batch.span.begun, Moment.now())
        batch.result = None
        batch.task = asyncio.get_running_loop().create_task(self._work(batch))

    async def _work(self, batch: Batch) -> None:
        try:
            batch.result = await self._pool.run(self._new_ticket(str(batch.slab.path), batch.sequence))
        except Exception as error:
            batch.result = error
        self._commit_ready()

    # -- commit, in order

    def _commit_ready(self) -> None:
        """Commit the finished batches in order, as far as memory has room."""
        working = self._batches.working
        while working and working[0].result is not None and not self.failed.done():
            batch = working[0]
            if not self._try_commit(batch):
                return
            self._shortages.end("rows")
            working.popleft()
            self._slabs.release(batch.slab)
            self._has_room.set()
            if not self._pool.size and not self._committer.has_direct_path:
                self._rest(batch)
        if self._dispatch_due:
            self._dispatch()  # the filling batch may still linger; do not seal it
        else:
            self._seal_and_dispatch()
        if self._batches.note_done():
            self._publish_counts()

    def _rest(self, batch: Batch) -> None:
        """Set when the next batch may begin."""
        now = self._loop.time()
        took_s = (time.monotonic_ns() - batch.span.submitted.monotonic) / 1e9
        self._begins_at = now - took_s + min(_REST * took_s, _LONGEST_REST_S)

    def _try_commit(self, batch: Batch) -> bool:
        """Commit a batch; False if it is decoded again, waits for memory, or failed the stream."""
        result = batch.result
        if isinstance(result, NoSpaceError):  # from the worker: the result did not fit into its slab
            batch.result = None  # so that `_commit_ready` does not see it again
            self._committer.evict()
            self._wait_for_memory("rows", result, partial(self._submit, batch))
            return False
        if isinstance(result, Receipt) and not self._committer.fits(result):
            self._committer.discard(result)
            self._submit(batch)
            return False
        try:
            self._commit(batch)
        except NoSpaceError as error:
            self._wait_for_memory("rows", error, self._commit_ready)
            return False
        except Exception as error:
            self._fail(error)
            return False
        return True

    def _commit(self, batch: Batch) -> None:
        result = batch.result
        if isinstance(result, SharedMemoryError | NoWorkersError):
            raise result  # the batch is not at fault: it stays in its slab
        self._write_journal()
        if isinstance(result, Receipt):
            self._committer.commit(batch.slab, result, batch.span)
            self._counts.decoded.add(result.cpu_ns)
            self._answer(batch, result)
        else:
            self._quarantine(batch, result)

    def _answer(self, batch: Batch, receipt: Receipt) -> None:
        """Pass on everything of a committed batch but its rows."""
        if receipt.fault:
            log.error("batch %d: %s", batch.sequence, receipt.fault)
        if receipt.control:
            self._on_control(list(receipt.control))
        for index, future in batch.waiting.items():
            if not future.done():
                future.set_result(receipt.bodies[index])

    def _quarantine(self, batch: Batch, error: Exception | None) -> None:
        """Keep a batch that cannot be decoded with the rejects."""
        if not isinstance(error, PoisonedBatchError):
            log.error("batch %d: the decoder failed", batch.sequence, exc_info=error)
        log.error("batch %d is quarantined: kept in %s", batch.sequence, self._committer.rejects.path)
        self._committer.quarantine(batch.slab, batch.sequence, str(error) or repr(error), batch.span)
        for future in batch.waiting.values():
            if not future.done():
                future.set_result(_QUARANTINED)

    # -- shortages

    async def _wait_for_room(self) -> None:
        self._publish_counts()
        await self._has_room.wait()

    def _wait_for_memory(self, what: str, error: NoSpaceError, again: Callable[[], None]) -> None:
        """Evict an idle slab and call `again`, or call it in a moment; fail if the shortage lasts."""
        now = time.monotonic()
        if self._shortages.begin(what, now):
            log.warning("%s; waiting up to %.0f s for room", error, FULL_S)
        evicted = self._slabs.evict()
        if self._shortages.seconds(what, now) > FULL_S:
            self._fail(error)
        else:
            asyncio.get_running_loop().call_later(0.0 if evicted else _RETRY_S, again)

    def _fail(self, error: Exception) -> None:
        self._publish_counts()
        if not self.failed.done():
            self.failed.set_exception(error)

    def _publish_counts(self) -> None:
        self._committer.state["payloads_received"] = self._counts.payloads
        self._committer.state["bytes_received"] = self._counts.bytes
