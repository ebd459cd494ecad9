"""Runs all streams at once: one feed process for each, which it watches, restarts, and stops in order.

    start    remove dead runs · run directory · (simulator) · all feeds · "fetch", so that all begin at once
    watch    exit codes, heartbeats, restarts with backoff; trouble of one stream does not touch the others
             (decoders compiled beside the run: "kernels", and each feed switches to them)
    stop     1 feeds drain: they stop receiving, commit what they have, and close their frames
             2 feeds that do not end in time are killed
             3 recorder · last telemetry · report · simulator · run directory removed

`feed_process` decides what happens to one feed; `run_end` ends a run once all feeds have ended. A feed that
exits with a code that a restart cannot help (bad key, bad setting, full shared memory) is not restarted:
its stream has failed, and the others continue.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import msgspec

from mdstream import log as logs
from mdstream.config import Config
from mdstream.engine import preparation, run_end
from mdstream.engine.compilation import Compilation
from mdstream.engine.embedded import HOW_TO_GO_LIVE, EmbeddedSimulator
from mdstream.engine.event_log import EventLog
from mdstream.engine.feed_process import FeedProcess
from mdstream.engine.feed_state import Stage
from mdstream.engine.launcher import Launcher
from mdstream.engine.measure import Measurements
from mdstream.errors import Exit, RunRemovedError
from mdstream.feed.assignment import Assignment
from mdstream.frames import rundir
from mdstream.frames.rundir import RunDirectory, state_path
from mdstream.pool import early
from mdstream.recording.process import RecorderProcess, start_for_dead_runs
from mdstream.system.clock import Awake, Moment
from mdstream.telemetry.events import EventKind, RunEvent, Severity
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

SAMPLE_S = 1.0

_FETCH_TIMEOUT_S = 20.0
"""How long the first fetches wait for the slowest feed to start."""

_LINGER_S = 0.3
"""How long frames stay after the last row, for readers that follow them."""


class Supervisor:
    """Runs one engine from start to report. Blocks in `run`; `stop` may be called from a signal handler.

    `write_log` gets every log record of every process. `on_sample` is called after the telemetry of each
    second, and once all feeds are up. Before that, `on_progress` is called with what the engine does.
    """

    # The progress of the run: written by `run`, and by `stop` from a signal handler.
    started: Moment
    ended: Moment
    draining: bool
    aborted: bool
    removed: RunRemovedError | None
    """The error that ended the run, if somebody removed its folder."""
    _fetching: bool
    """Whether the feeds were asked to start fetching."""

    # The parts: written by `_start`, None before it. Each owns its own state.
    directory: RunDirectory | None
    feeds: dict[str, FeedProcess]
    recorder: RecorderProcess | None
    _effective: Config
    """The settings that the parts get: `config` with memory sizes, paths and addresses filled in."""
    _facts: dict[str, Any]
    """What `run.json` says about the run."""
    _measurements: Measurements | None
    _events: EventLog | None
    _compilation: Compilation | None
    _launcher: Launcher | None
    _simulator: EmbeddedSimulator | None

    # Other descriptors that `_wait` waits for: written by `watch` and `unwatch`.
    _inputs: dict[Any, Callable[[], None]]

    # The end: written by `_settle` and `run`.
    _settled: set[str]
    """Streams whose leftovers are counted."""
    _is_recorded: bool

    def __init__(
        self,
        config: Config,
        write_log: Callable[[dict[str, Any]], None],
        on_sample: Callable[[Supervisor], None] = lambda supervisor: None,
        on_progress: Callable[[str], None] = lambda doing: None,
    ) -> None:
        self.config = self._effective = config
        self._write_log = write_log
        self._on_sample = on_sample
        self._on_progress = on_progress
        self.started = self.ended = Moment.now()
        self.draining = self.aborted = self._fetching = False
        self.directory = self.recorder = self.removed = None
        self._measurements = self._events = self._launcher = self._simulator = None
        self._compilation = None
        self.feeds, self._facts, self._inputs = {}, {}, {}
        self._settled, self._is_recorded = set(), True
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
    def measurements(self) -> Measurements:
        """What was measured last, and where it is written."""
        assert self._measurements is not None
        return self._measurements

    @property
    def compiling(self) -> str:
        """How far the compilation of the decoders is; empty unless it is running."""
        return self._compilation.progress if self._compilation is not None else ""

    @property
    def is_up(self) -> bool:
        """Whether every stream is served, or never will be."""
        return all(feed.stage.is_up or feed.stage.is_final for feed in self.feeds.values())

    def watch(self, source: int, act: Callable[[], None]) -> None:
        """Call `act` whenever file descriptor `source` is readable."""
        self._inputs[source] = act

    def unwatch(self, source: int) -> None:
        self._inputs.pop(source, None)

    def command(self, stream: str, *command: Any) -> None:
        """Send a command to one feed: `subscribe` or `unsubscribe`, channels, symbols."""
        self.feeds[stream].command(*command)
        name, _, symbols = command
        if name == "subscribe" and self.directory is not None:  # readers distinguish them from unknown ones
            known = self._facts["symbols"]
            known[stream] = list(dict.fromkeys([*known[stream], *symbols]))
            self.directory.describe(**self._facts)

    def stop(self) -> None:
        """Drain and end the run; a second call ends it at once. Safe in a signal handler."""
        if self.draining:
            self.aborted = True
        self.draining = True
        os.write(self._wake_write, b"!")

    def run(self, finish: Callable[[Supervisor], None]) -> Exit:
        """Run until stopped, until `duration` is reached, or until no stream is left. Return the exit code.

        `finish` is called at the end, while the frames still exist: the place for a report.
        """
        logs.set_up(self.config.log.level, self._write_log)
        early.prepare_environment()
        root = Path(self.config.frames.directory) if self.config.frames.directory else None
        preparation.journal_dead_runs(root)
        for dead in rundir.reap(root):
            log.info("removed the leftovers of the dead run %s", dead.name)
        for dead in start_for_dead_runs(root, self.config.store):
            log.info("recording the rest of the dead run %s in the background", dead.name)
        with RunDirectory(root) as self.directory:
            self.started = Moment.now()
            self._effective = preparation.prepare_settings(self.config, self.directory)
            try:
                self._start(self.directory)
                self._loop()
                self._drain()
                self.ended = Moment.now()
                if not self._find_removed():
                    self.directory.describe(**self._facts, ended=True)
                    self._is_recorded = run_end.finish_recording(
                        self.directory,
                        self.recorder,
                        self.config.drain_timeout_s,
                        lambda: self.aborted or self._find_removed(),
                    )
                if self._find_removed():
                    run_end.give_up_recording(self.recorder)
                self._sample()
                finish(self)
                if not self.aborted:
                    time.sleep(_LINGER_S)
            finally:
                self._end_children()
        if self.aborted:
            return Exit.INTERRUPTED
        if self.removed is not None:
            return self.removed.exit_code
        feeds = self.feeds.values()
        return run_end.exit_code(feeds, self._is_recorded and run_end.is_journaled(feeds))

    # -- start

    def _start(self, directory: RunDirectory) -> None:
        self._launcher = Launcher(self.config.start_timeout_s)
        if self.config.simulated:
            self._on_progress("starting the simulator")
            self._simulator = EmbeddedSimulator(
                self.config.simulator, self.config.streams, self.config.start_timeout_s
            )
            self._effective = msgspec.structs.replace(self._effective, **self._simulator.address)
            log.info(HOW_TO_GO_LIVE)
        self._facts = preparation.describe_run(self._effective, self.config.simulated)
        directory.describe(**self._facts)
        self._measurements = Measurements(self.path, self._find_others)
        self._events = EventLog(self._measurements.writer)
        log.info("run %s: %s", self.run_id, ", ".join(self.config.streams))
        if self.config.record:
            self.recorder = RecorderProcess(self.path, self._effective.store, self._report_recorder)
        self.started = Moment.now()
        self._on_progress(f"starting {', '.join(self.config.streams)}")
        for name in self.config.streams:
            state = FeedState.create(state_path(self.path, name))
            symbols = self.config.stream(name).symbols
            self.feeds[name] = FeedProcess(name, symbols, state, self._events, self._write_log)
            if not self.draining:
                self._start_feed(self.feeds[name])

    def _start_feed(self, feed: FeedProcess) -> None:
        assert self._launcher is not None
        share = self.config.fetch.budget_per_minute // len(self.config.streams)
        settings = self._effective.feed(feed.stream)
        self._launcher.start(
            feed, Assignment(feed.stream, self.path, self.run_id, settings, share, feed.generation + 1)
        )

    # -- watch

    def _loop(self) -> None:
        deadline = None
        sample_at = time.monotonic()
        while not self.draining and not all(feed.stage.is_final for feed in self.feeds.values()):
            now = time.monotonic()
            if now >= sample_at:
                self._sample()
                sample_at = max(sample_at + SAMPLE_S, now)
            next_at = sample_at if deadline is None else min(sample_at, deadline)
            self._wait(max(0.0, next_at - time.monotonic()))
            self._check()
            self._start_fetching()
            if deadline is None and self._fetching and self.config.duration:
                deadline = time.monotonic() + self.config.duration
            if deadline is not None and time.monotonic() >= deadline:
                log.info("duration of %g s reached; draining", self.config.duration)
                self.draining = True

    def _wait(self, timeout: float) -> None:
        """Handle everything that comes within `timeout` seconds, at least once."""
        feeds = self.feeds.values()
        pipes: dict[Any, FeedProcess] = {f.pipe: f for f in feeds if f.pipe is not None}
        ends: dict[Any, FeedProcess] = {f.sentinel: f for f in feeds if f.process}
        sources: list[Any] = [*pipes, *ends, *self._inputs, self._wake_read]
        for source in wait(sources, timeout):
            if source in pipes:
                pipes[source].receive()
            elif source in ends:
                feed = ends[source]
                feed.handle_exit()
                if feed.stage is Stage.FAILED:
                    self._settle(feed)
                elif feed.stage is Stage.HALTED:
                    self._finish_feed(feed)
            elif source == self._wake_read:
                os.read(self._wake_read, 1024)
            elif source in self._inputs:
                self._inputs[source]()

    def _check(self) -> None:
        """Handle a removed folder, hung feeds, feeds that do not start, and restarts that are due."""
        if self._find_removed():
            return
        if self._compilation is not None:
            self._compilation.check(self.feeds.values())
        for feed in self.feeds.values():
            feed.check(self.config.start_timeout_s, self.config.hang_timeout_s)
            if feed.stage is Stage.RESTARTING and time.monotonic() >= feed.restart_at:
                self._start_feed(feed)
        if self.recorder is not None:
            self.recorder.check()
        if self._simulator is not None and not self._simulator.process.is_alive():
            self._report(
                "simulator", EventKind.DIED, "died; restarting it on the same port", Severity.WARNING
            )
            self._simulator.restart()

    def _find_removed(self) -> bool:
        """Return whether the run's folder was removed. The run ends then: nobody can read its frames."""
        if self.removed is None and self.directory is not None and self.directory.is_removed:
            self.removed = RunRemovedError(str(self.path))
            log.error("%s. Draining", self.removed)
            self.draining = True
        return self.removed is not None

    def _start_fetching(self) -> None:
        """Once all feeds are up, make them start fetching at once. A later one starts by itself."""
        late = time.monotonic_ns() - self.started.monotonic > _FETCH_TIMEOUT_S * 1e9
        if not self._fetching and (late or self.is_up):
            self._fetching = True
            for feed in self.feeds.values():
                feed.command("fetch")
            self._on_sample(self)
            self._compile()

    def _compile(self) -> None:
        """Compile the decoders if that is not done; the feeds run without them until then."""
        self._compilation = compilation = Compilation()
        if (sentinel := compilation.sentinel) is not None:

            def finish() -> None:
                self.unwatch(sentinel)
                compilation.finish(self.feeds.values())

            self.watch(sentinel, finish)

    def _find_others(self) -> dict[int, str]:
        """Return the roles of the processes that belong to no feed, by process id."""
        others = dict.fromkeys(self.recorder.pids if self.recorder is not None else [], "recorder")
        for role, part in (("simulator", self._simulator), ("compiler", self._compilation)):
            if part is not None and part.pid is not None:
                others[part.pid] = role
        return others

    def _report_recorder(self, text: str, level: int) -> None:
        self._report("recorder", EventKind.RECORDING, text, Severity(level))

    def _report(self, stream: str, kind: EventKind, text: str, severity: Severity) -> None:
        assert self._events is not None
        self._events.report(stream, RunEvent(kind, text, severity))

    def _sample(self) -> None:
        self.measurements.sample(self.feeds.values())
        self._on_sample(self)

    # -- stop

    def _drain(self) -> None:
        """Make every feed commit what it has; kill those that do not end in time."""
        self.draining = True
        drained, awake = time.monotonic(), Awake()
        deadline = awake.now() + self.config.drain_timeout_s
        for feed in self.feeds.values():
            feed.drain()
            if feed.stage is Stage.HALTED:
                self._finish_feed(feed)
        while any(feed.process for feed in self.feeds.values()) and not self.aborted:
            left = deadline - awake.now()
            if left <= 0:
                for feed in self.feeds.values():
                    feed.expire(f"not drained within {self.config.drain_timeout_s:.0f} s")
                deadline = awake.now() + 5.0
            self._wait(min(0.5, max(0.01, left)))
        for feed in self.feeds.values():
            self._settle(feed)
            feed.fail_if_unserved(drained)

    def _finish_feed(self, feed: FeedProcess) -> None:
        """End the stream of a feed without a process, or start one that commits what the last one left."""
        if feed.up_since is not None and run_end.has_leftovers(self.path, feed):
            self._start_feed(feed)
        else:
            feed.give_up()

    def _settle(self, feed: FeedProcess) -> None:
        if feed.stream not in self._settled:
            self._settled.add(feed.stream)
            run_end.settle_leftovers(self.path, feed)

    def _end_children(self) -> None:
        for feed in self.feeds.values():
            if feed.process is not None:
                feed.kill("the run has ended")
                feed.process.join(5.0)
        if self._compilation is not None:
            self._compilation.end()
        if self._simulator is not None:
            self._simulator.stop()
        if self._measurements is not None:
            self._measurements.close()
        if self._launcher is not None:
            self._launcher.close()
