"""Runs all streams at once: one feed process each, watched, restarted, and stopped in order.

    start    reap dead runs · run directory · (simulator) · all feeds · "go", so that all fetch at once
    watch    exit codes, heartbeats, restarts with backoff; one stream's trouble touches no other
    stop     1 feeds drain: receive no more, finish what is under way, close their frames
             2 those that do not end in time are killed
             3 last telemetry · report · simulator · run directory removed

A feed that exits with a code that no new attempt can mend (bad key, bad setting, full shared memory)
is not restarted: its stream has failed, the others go on.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import msgspec

from mdstream import log as logs
from mdstream.config import Config
from mdstream.engine import memory, preparation
from mdstream.engine.embedded import HOW_TO_GO_LIVE, EmbeddedSimulator
from mdstream.engine.feed_process import FeedProcess
from mdstream.engine.measure import Measurements
from mdstream.errors import UNRECOVERABLE, Exit
from mdstream.feed import recovery
from mdstream.feed.feed import Assignment
from mdstream.frames import rundir
from mdstream.frames.rundir import RunDirectory, state_path
from mdstream.interrupts import block_interrupts
from mdstream.pool import forkserver
from mdstream.pool.pool import forkserver_modules
from mdstream.recording.process import RecorderProcess, start_for_dead_runs
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

SAMPLE_S = 1.0


_GO_PATIENCE_S = 20.0
"""How long the first fetches wait for the slowest feed to start."""

_LINGER_S = 0.3
"""How long frames stay after the last row, for readers that follow them."""

_EVENTS = 200


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened, for people."""

    ts: datetime
    stream: str
    text: str


class Supervisor:
    """Runs one engine from start to report. Blocks in `run`; `stop` may be called from a signal.

    `write_log` gets every log record of every process; `on_sample` is called after each second's
    telemetry, and once all feeds are up, for a live view.
    """

    # The mutable state: the feeds, what stage the run is in, the events so far; of which streams the
    # last process is gone, and which got one more at the end; whether all that should be is recorded.

    def __init__(
        self,
        config: Config,
        write_log: Callable[[dict[str, Any]], None],
        on_sample: Callable[[Supervisor], None] | None = None,
    ) -> None:
        self.config = config
        self.events: deque[RunEvent] = deque(maxlen=_EVENTS)
        self.feeds: dict[str, FeedProcess] = {}
        self.directory: RunDirectory | None = None
        self.draining = False
        self.aborted = False
        self.started_ns = self.ended_ns = 0
        self._write_log = write_log
        self._on_sample = on_sample
        self._forked: BaseContext | None = None
        self._spawned = multiprocessing.get_context("spawn")
        self._inputs: dict[Any, Callable[[], None]] = {}
        self._simulator: EmbeddedSimulator | None = None
        self._measurements: Measurements | None = None
        self._effective = config
        self.recorder: RecorderProcess | None = None
        self._facts: dict[str, Any] = {}
        self._is_recorded = True
        self._gone = False
        self._settled: set[str] = set()
        self._revived: set[str] = set()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    @property
    def run_id(self) -> str:
        assert self.directory is not None
        return self.directory.run

    @property
    def path(self) -> Path:
        assert self.directory is not None
        return self.directory.path

    @property
    def streams(self) -> dict[str, dict[str, Any]]:
        """The last sample of each stream: a row of `telemetry.streams`."""
        assert self._measurements is not None
        return self._measurements.streams

    @property
    def telemetry_rows_lost(self) -> int:
        assert self._measurements is not None
        return self._measurements.writer.lost

    def watch(self, source: int, act: Callable[[], None]) -> None:
        """Call `act` whenever file descriptor `source` can be read."""
        self._inputs[source] = act

    def unwatch(self, source: int) -> None:
        self._inputs.pop(source, None)

    def command(self, stream: str, *message: Any) -> None:
        """Send a command to one feed (`subscribe` or `unsubscribe`, channels, symbols)."""
        self.feeds[stream].tell(*message)

    def stop(self) -> None:
        """Drain and end the run; called again, end it at once. Safe in a signal handler."""
        if self.draining:
            self.aborted = True
        self.draining = True
        os.write(self._wake_write, b"!")

    def run(self, finish: Callable[[Supervisor], None]) -> Exit:
        """Run until stopped, until `duration` is over, or until no stream is left.

        `finish` is called at the end, while the frames are still there: the place for a report.
        """
        logs.set_up(self.config.log.level, self._write_log)
        preparation.prepare_environment()
        root = Path(self.config.frames.directory) if self.config.frames.directory else None
        for dead in rundir.reap(root):
            log.info("removed what the dead run %s had left", dead.name)
        for dead in start_for_dead_runs(root, self.config.store):
            log.info(
                "the dead run %s was being recorded: what is left of it is recorded now, in the background",
                dead.name,
            )
        with RunDirectory(root) as self.directory:
            self.directory.name_semaphores()
            self.started_ns = time.time_ns()
            self._effective = self._prepared(self.directory)
            try:
                self._start()
                self._loop()
                self._drain()
                self.ended_ns = time.time_ns()
                self._finish_recording(self.directory)
                self._sample()
                finish(self)
                if not self.aborted:
                    time.sleep(_LINGER_S)
            finally:
                self._end_children()
        return self._exit_code()

    # -- start

    def _prepared(self, directory: RunDirectory) -> Config:
        """The settings with what this machine has of shared memory, and with paths that were checked."""
        config, replace = self.config, msgspec.structs.replace
        demand = memory.Demand(
            len(config.streams), config.workers_per_stream(), config.handoff, config.frames
        )
        if why := preparation.too_many_workers(demand.workers, demand.streams):
            log.warning("%s: the default shares them out", why)
        fitted = preparation.fit_memory(demand, directory.path.parent)
        preparation.check_rejects(config.rejects, directory.run)
        config = replace(config, handoff=fitted.handoff, frames=fitted.frames)
        if config.record:
            config = replace(config, store=preparation.prepare_store(config.store))
        if config.journal:
            config = replace(config, journal=preparation.prepare_journal(config.journal))
        return config

    def _start(self) -> None:
        handoff = preparation.prepare_decoders(self._effective.handoff, self._wait_on)
        self._effective = msgspec.structs.replace(self._effective, handoff=handoff)
        needed = forkserver_modules("mdstream.feed.process")
        with block_interrupts():
            forkserver.begin(*needed)
        self._forked = forkserver.take(*needed)
        if self.config.simulated:
            self._simulator = EmbeddedSimulator(
                self._spawned, self.config.simulator, self.config.streams, self.config.start_timeout_s
            )
            self._effective = msgspec.structs.replace(self._effective, **self._simulator.address)
            log.info(HOW_TO_GO_LIVE)
        assert self.directory is not None
        self._facts = {
            "started": datetime.now(UTC).isoformat(),
            "streams": list(self.config.streams),
            "feeds": {name: self.config.stream(name).feed for name in self.config.streams},
            "workers": self.config.workers_per_stream(),
            "urls": list(self._effective.urls()),
            "simulated": self.config.simulated,
        }
        if self.config.record:
            self._facts["store"] = self._effective.store.path
        self.directory.describe(**self._facts)
        simulator_pid = self._simulator.process.pid if self._simulator else None
        self._measurements = Measurements(
            self.path, simulator_pid, lambda: self.recorder.pids if self.recorder else []
        )
        log.info("run %s: %s", self.run_id, ", ".join(self.config.streams))
        if self.config.record:
            self.recorder = RecorderProcess(
                self.path, self._effective.store, lambda text, level: self._note("recorder", text, level)
            )
        self.started_ns = time.time_ns()
        for name in self.config.streams:
            state = FeedState.create(state_path(self.path, name))
            self.feeds[name] = FeedProcess(name, state, self._note, self._write_log)
            if not self.draining:
                self._spawn(self.feeds[name])

    def _spawn(self, feed: FeedProcess) -> None:
        share = self.config.fetch.budget_per_minute // len(self.config.streams)
        assignment = Assignment(
            feed.stream,
            self.path,
            self.run_id,
            self._effective.feed(feed.stream),
            share,
            feed.generation + 1,
        )
        try:
            assert self._forked is not None
            with forkserver.killed_after(self.config.start_timeout_s):
                feed.start(self._forked, assignment)
        except (EOFError, OSError) as error:
            log.warning("%s: its process cannot be forked (%r), and is started anew", feed.stream, error)
            feed.start(self._spawned, assignment)

    # -- watch

    def _loop(self) -> None:
        deadline = None
        sample_at = time.monotonic()
        while not self.draining and not all(feed.done for feed in self.feeds.values()):
            now = time.monotonic()
            if now >= sample_at:
                self._sample()
                sample_at = max(sample_at + SAMPLE_S, now)
            next_at = sample_at if deadline is None else min(sample_at, deadline)
            self._wait(max(0.0, next_at - time.monotonic()))
            self._check()
            self._let_go()
            if deadline is None and self._gone and self.config.duration:
                deadline = time.monotonic() + self.config.duration
            if deadline is not None and time.monotonic() >= deadline:
                log.info("the %g s are over", self.config.duration)
                self.draining = True

    def _wait(self, timeout: float) -> None:
        """Handle whatever comes within `timeout` seconds, at least once."""
        feeds = self.feeds.values()
        pipes: dict[Any, FeedProcess] = {f.pipe: f for f in feeds if f.pipe is not None}
        ends: dict[Any, FeedProcess] = {f.sentinel: f for f in feeds if f.process}
        sources: list[Any] = [*pipes, *ends, *self._inputs, self._wake_read]
        for source in wait(sources, timeout):
            if source in pipes:
                pipes[source].receive()
            elif source in ends:
                feed = ends[source]
                feed.ended(self.draining)
                if feed.failure:
                    self._settle(feed)
                elif self.draining and not feed.done:
                    self._end_between_lives(feed)
            elif source == self._wake_read:
                os.read(self._wake_read, 1024)
            elif source in self._inputs:
                self._inputs[source]()

    def _wait_on(self, timeout: float) -> bool:
        """`_wait`; whether the run is still wanted."""
        self._wait(timeout)
        return not self.draining

    def _check(self) -> None:
        """Hung feeds, feeds that do not start, restarts that are due."""
        for feed in self.feeds.values():
            feed.check(self.config.start_timeout_s, self.config.hang_timeout_s)
            if feed.restart_at is not None and time.monotonic() >= feed.restart_at:
                self._spawn(feed)
        if self.recorder is not None:
            self.recorder.check()
        if self._simulator is not None and not self._simulator.process.is_alive():
            self._note("simulator", "died; starting it again on its port", logging.WARNING)
            self._simulator.start_again()

    def _let_go(self) -> None:
        """Once every feed is up, all fetch at once; one that comes up later need not wait."""
        late = time.time_ns() - self.started_ns > _GO_PATIENCE_S * 1e9
        if not self._gone and (late or all(f.up or f.done for f in self.feeds.values())):
            self._gone = True
            self._show()
        for feed in self.feeds.values():
            if self._gone and feed.up and not feed.gone:
                feed.gone = True
                feed.tell("go")

    def _note(self, stream: str, text: str, level: int) -> None:
        self.events.append(RunEvent(datetime.now(UTC), stream, text))
        if level:
            log.log(level, "%s: %s", stream, text)

    def _sample(self) -> None:
        assert self._measurements is not None
        self._measurements.sample(self.feeds.values(), self.draining)
        self._show()

    def _show(self) -> None:
        if self._on_sample is not None:
            self._on_sample(self)

    # -- stop

    def _drain(self) -> None:
        """Have every feed finish what it has; kill those that do not in time."""
        self.draining = True
        drained = time.monotonic()
        deadline = drained + self.config.drain_timeout_s
        for feed in self.feeds.values():
            if feed.process is None and not feed.done:
                self._end_between_lives(feed)
            else:
                feed.tell("drain")
        while any(feed.process for feed in self.feeds.values()) and not self.aborted:
            left = deadline - time.monotonic()
            if left <= 0:
                for feed in self.feeds.values():
                    feed.kill(f"not drained within {self.config.drain_timeout_s:.0f} s", final=True)
                deadline = time.monotonic() + 5.0
            self._wait(min(0.5, max(0.01, left)))
        for feed in self.feeds.values():
            self._settle(feed)
            feed.judge(drained)

    def _finish_recording(self, directory: RunDirectory) -> None:
        """Nothing more comes: let the recorder bring the rest, or leave it the run's folder."""
        directory.describe(**self._facts, ended=True)
        patience, finished = self.config.drain_timeout_s, True
        if self.recorder is not None:
            finished = self.recorder.finish(patience, lambda: self.aborted)
        else:
            deadline = time.monotonic() + patience  # one that somebody started by hand
            while rundir.has_recorder(self.path) and not self.aborted:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
            finished = not rundir.has_recorder(self.path)
        self._is_recorded = finished
        if not finished:
            directory.abandon()
            at_work = f"; process {self.recorder.pid} is still at it" if self.recorder else ""
            log.warning(
                "not all is recorded: %s stays until it is%s; where that ends, the next run goes on, or "
                "mdstream record --run %s",
                self.path,
                at_work,
                self.run_id,
            )

    def _end_between_lives(self, feed: FeedProcess) -> None:
        """The run ends while a feed has no process: one more commits what it had received, if anything."""
        waiting = recovery.find(self.path, feed.stream, feed.state).pending
        if waiting and feed.up_since and feed.stream not in self._revived:
            self._revived.add(feed.stream)
            self._spawn(feed)
            feed.tell("drain")
        else:
            feed.give_up_restart()

    def _settle(self, feed: FeedProcess) -> None:
        """Count what a feed that is gone for good left in its slabs, and give the memory to others."""
        if feed.stream in self._settled:
            return
        self._settled.add(feed.stream)
        leftovers = recovery.find(self.path, feed.stream, feed.state)
        recovery.settle(feed.state, leftovers.pending)
        for slab in (*leftovers.pending, *leftovers.free):
            slab.unlink()

    def _end_children(self) -> None:
        for feed in self.feeds.values():
            if feed.process is not None:
                feed.kill("the run is over")
                feed.process.join(5.0)
        if self._simulator is not None:
            self._simulator.stop()
        if self._measurements is not None:
            self._measurements.close()
        if self._forked is not None:
            forkserver.leave()

    def _exit_code(self) -> Exit:
        """The reason's own code if all streams that failed share one, else that one failed, or that not all
        is recorded.
        """
        if self.aborted:
            return Exit.INTERRUPTED
        codes = {feed.exit_code for feed in self.feeds.values() if feed.failure}
        if not codes:
            return Exit.OK if self._is_recorded else Exit.STREAM_FAILED
        code = codes.pop()
        return Exit(code) if not codes and code in UNRECOVERABLE else Exit.STREAM_FAILED
