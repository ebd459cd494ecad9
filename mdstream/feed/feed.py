"""One stream's process: receive, hand off, commit. Start reading here.

    session (WebSocket) ─┐
                         ├─► pipeline ─► workers ─► committer ─► frames
    fetcher (REST) ──────┘
             ▲ commands                                │ state page, messages
             └──────────────── supervisor ◄────────────┘

Start: resume the batches and contracts of a killed predecessor, start the workers, connect. Fetch on the
supervisor's command, together with all other streams. Stop in this order: session and fetcher, so that no
new data arrives; the pipeline, with all its batches; the open bars and the frames (committer); the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from mdstream.errors import UNRECOVERABLE, MdstreamError, NoSpaceError
from mdstream.feed.assignment import Assignment
from mdstream.feed.clock_check import ClockCheck
from mdstream.feed.contracts import FollowedContracts
from mdstream.feed.fetching import Fetching
from mdstream.feed.kernel_switch import KernelSwitch
from mdstream.feed.parts import make_committer, make_journal
from mdstream.feed.pipeline import Pipeline
from mdstream.feed.scaler import Scaler
from mdstream.feed.selection import Selection
from mdstream.feed.served import ServedSymbols
from mdstream.frames.rundir import contracts_path
from mdstream.pool.pool import WorkerPool
from mdstream.session.fetch import Cycle
from mdstream.session.stream import StreamSession
from mdstream.session.target import Target
from mdstream.streams import STREAMS
from mdstream.system.clock import next_beat
from mdstream.system.mailbox import Outbox
from mdstream.telemetry.events import EventKind, RunEvent
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.25
"""How often a busy stream publishes its gauges."""
BEAT_S = 1.0
"""How often a feed shows that its loop runs, and does what is not urgent: one wake-up."""
_FEW_PAYLOADS = 100
"""A stream with no more payloads since it published its gauges is quiet: it publishes them at each beat."""
_CARRIED_ON = ("established", "reconnects", "control", "fetch_requests", "pool_rebuilds")
"""Counters that the parts of a feed start at 0; the feed adds its predecessors' counts."""
_EXIT_WAIT_S = 3.0


class Feed:
    """Wires the parts of one stream together, and runs them from start to drain."""

    # Written by the feed, in its loop. All other state belongs to the parts.
    _published: tuple[int, tuple[Any, ...]]
    """The received payloads and the progress of the session when gauges were published last."""
    _stop: asyncio.Event
    """Set by a command of the supervisor, and by SIGTERM."""

    def __init__(
        self, assignment: Assignment, outbox: Outbox, pipe: Connection, state: FeedState, pool: WorkerPool
    ) -> None:
        config = assignment.config
        self.spec = STREAMS[assignment.stream]
        self.state = state
        self._assignment = assignment
        self._outbox = outbox
        self._pipe = pipe
        self._pool = pool
        self._stop = asyncio.Event()
        self._published = 0, ()
        self._before = {name: state[name] for name in _CARRIED_ON}
        path = contracts_path(assignment.run, self.spec.name)
        followed = FollowedContracts(self.spec.chain, config.stream.chain_contracts, path)
        self._selection = Selection(self.spec, config.stream, followed)
        self._subscriptions = self._selection.subscriptions
        self._committer = make_committer(assignment, state, pool)
        journal = make_journal(assignment, state, pool, self._report)
        self._pipeline = Pipeline(
            assignment.run,
            self.spec.name,
            config.handoff,
            pool,
            self._committer,
            self._control,
            journal,
            self._report,
        )
        self._scaler = Scaler(pool, self._pipeline, state, self._report) if config.adapts else None
        self._clock_check = ClockCheck(self.spec, self._committer.frames, self._report)
        self._kernel_switch = KernelSwitch(pool, self._pipeline, self._report)
        self._session = StreamSession(
            Target.of(self.spec, config.stream, config.connection),
            self._subscriptions,
            self._pipeline,
            self._report,
            self._count_rows,
            has_worked=self._before["established"] > 0,
        )
        self._fetching = Fetching(
            assignment,
            self._selection,
            self._pipeline.put_body,
            self._follow,
            self._count_cycle,
            self._report,
        )
        self._served = ServedSymbols(
            self.spec, self._selection, self._fetching, lambda: self._committer.received
        )

    async def run(self) -> None:
        """Serve the stream until the supervisor sends `drain`. Raises the error that it fails with."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        threading.Thread(target=self._listen, args=(loop,), name="commands", daemon=True).start()
        self.state["pool_size"] = self._pool.size
        if self._assignment.generation:
            await self._take_over()
        self._outbox.put("up", None)
        try:
            await self._serve()
        except MdstreamError as error:
            if error.exit_code in UNRECOVERABLE and not self._pipeline.failed.done():
                await self._drain()  # commit what was received before
            raise
        await self._drain()

    # -- start

    async def _take_over(self) -> None:
        """Resume the contracts, open bars and batches without a commit of a killed predecessor."""
        if contracts := self._selection.restore():
            log.info("resuming %d contracts of the previous process", contracts)
        if self.spec.bar_rules:
            rows = self._committer.committed_rows
            run = str(self._assignment.run)
            try:
                self._committer.restore_bars(await self._pool.rebuild_partials(run, self.spec.name, rows))
            except Exception:
                # Bars are derived data; rows must not wait for them.
                log.exception("cannot rebuild the open bars of the previous process")
        payloads = self._pipeline.recover()
        text = f"took over; {payloads} payloads of the previous process are still to commit"
        self._report(RunEvent(EventKind.RECOVERED, text, fields={"payloads": payloads}))

    # -- serve

    async def _serve(self) -> None:
        """Run session and fetcher until the feed stops, or until one of them fails."""
        waiting: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(part)
            for part in (
                self._session.run(),
                self._fetching.run(),
                self._keep_gauges(),
                self._keep_time(),
                self._stop.wait(),
            )
        ]
        try:
            await asyncio.wait([*waiting, self._pipeline.failed], return_when=asyncio.FIRST_COMPLETED)
            for task in (self._pipeline.failed, *waiting):
                if task.done():
                    task.result()
        finally:
            self._publish_gauges()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, self._kernel_switch.end(), return_exceptions=True)

    def _follow(self, underlying: str, listed: list[str]) -> None:
        """Follow the contracts of a chain that are likely to trade most."""
        if self._selection.follow(underlying, listed):
            self._session.change()

    def _count_cycle(self, cycle: Cycle) -> None:
        self.state["fetch_cycles"] += 1
        self.state["fetch_cycle_ns"] = cycle.ended_ns - cycle.started_ns
        self._outbox.put("cycle", (self.state["fetch_cycles"], cycle.started_ns, cycle.ended_ns))

    def _control(self, messages: list[dict[str, Any]]) -> None:
        self._session.handle_control(messages)

    # -- stop

    async def _drain(self) -> None:
        """Commit all received payloads, then close the frames."""
        await self._pipeline.finish(self._session.put_held())
        await self._close_frames()
        self._report_symbols()

    async def _close_frames(self) -> None:
        """Publish open bars and close the frames; retry for a moment if there is no room."""
        deadline = time.monotonic() + _EXIT_WAIT_S
        while True:
            try:
                return self._committer.close()
            except NoSpaceError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(HEARTBEAT_S)

    # -- the supervisor's side

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass on the supervisor's commands; stop once it is gone.

        On a thread: a loop that watches the pipe would make it non-blocking, also for the outbox.
        """
        with contextlib.suppress(RuntimeError):  # the loop has ended
            try:
                while True:
                    loop.call_soon_threadsafe(self._command, *self._pipe.recv())
            except (EOFError, OSError):
                loop.call_soon_threadsafe(self._stop.set)

    def _command(self, name: str, *arguments: Any) -> None:
        """Handle one command of the supervisor."""
        match name:
            case "fetch":
                self._fetching.start()
            case "kernels":
                self._kernel_switch.begin()
            case "drain":
                self._stop.set()
            case "subscribe" | "unsubscribe":
                self._resubscribe(name, *arguments)
            case _:
                log.error("unknown command %r", name)

    def _resubscribe(self, action: str, channels: Sequence[str], symbols: Sequence[str]) -> None:
        """Subscribe or unsubscribe symbols; without `channels`, on all channels and in fetches too."""
        if action == "subscribe":
            self._fetching.add(self._selection.subscribe(channels, symbols))
        else:
            self._selection.unsubscribe(channels, symbols)
            if not channels:
                self._fetching.forget(symbols)
        self._session.change()
        self._report_symbols()

    async def _keep_gauges(self) -> None:
        while True:
            is_quiet = self._is_quiet()
            self._published = self._pipeline.received, self._session.progress
            self._publish_gauges()
            self._clock_check.look()
            if self._scaler is not None:
                self._scaler.heartbeat()
            if self._served.may_have_changed:
                self._report_symbols()
            await next_beat(BEAT_S if is_quiet else HEARTBEAT_S)

    def _is_quiet(self) -> bool:
        """Return whether gauges have hardly changed since they were published."""
        received, progress = self._published
        few = self._pipeline.received - received <= _FEW_PAYLOADS
        return few and not self._pipeline.has_work and self._session.progress == progress

    async def _keep_time(self) -> None:
        while True:
            await next_beat(BEAT_S)
            self._pipeline.mark_tick()

    def _publish_gauges(self) -> None:
        session, state = self._session, self.state
        self._pipeline.heartbeat()
        state["connected"] = session.ready.is_set()
        state["established"] = self._before["established"] + session.established
        state["reconnects"] = self._before["reconnects"] + session.reconnects
        state["control"] = self._before["control"] + session.control_messages
        state["pool_rebuilds"] = self._before["pool_rebuilds"] + self._pool.rebuilds
        self._publish_subscriptions()
        state["fetch_requests"] = self._before["fetch_requests"] + self._fetching.requests

    def _publish_subscriptions(self) -> None:
        """Publish how many subscriptions are served. Without a connection, and during a change, the last
        numbers stay.

        What was served before counts across processes of the stream: their connections may linger.
        """
        if self._session.is_settled:
            state, subscriptions = self.state, self._subscriptions
            count = subscriptions.count
            most = max(state["subscriptions_most"], count)
            state["subscriptions_most"] = most
            state["subscriptions"] = count
            state["subscriptions_wanted"] = self._selection.count
            state["subscriptions_refused"] = len(subscriptions.refused)
            state["subscriptions_lost"] = min(len(subscriptions.again), most - count)

    def _count_rows(self, subscription: str) -> int | None:
        """Return the rows received by `subscription` so far; None while payloads wait to be decoded."""
        if self._pipeline.has_backlog:
            return None
        return sum(
            self._committer.frames[channel.name].rows
            for channel in self.spec.channels
            if subscription in channel.subscriptions
        )

    def _report(self, event: RunEvent) -> None:
        """Send the supervisor an event, and the state that it may have changed."""
        if event.kind in (EventKind.CONNECTED, EventKind.LOST):
            self._publish_gauges()  # it must know of a connection even if this process is killed now
        self._outbox.put("event", event)
        self._outbox.put("trouble", self._session.trouble)
        self._report_symbols()

    def _report_symbols(self) -> None:
        """Send the supervisor the symbols that are served, and those that are not, with reasons."""
        self._publish_subscriptions()
        ok, failed = self._served.find()
        self.state["symbols_ok"] = len(ok)
        self.state["symbols_failed"] = len(failed)
        refusal = next(iter(self._subscriptions.refused.values()), "")
        self._outbox.put("symbols", (sorted(ok), failed, refusal))
