"""Runs all streams at once: one feed process each, watched, restarted, and stopped in order.

    start    reap dead runs · run directory · (simulator) · all feeds · "go", so that all fetch at once
    watch    exit codes, heartbeats, restarts with backoff; one stream's trouble touches no other
    stop     1 feeds drain: receive no more, finish what is under way, close their frames
             2 those that do not end in time are killed
             3 simulator · last telemetry · report · run directory removed

A feed that exits with a code that no new attempt can mend (bad key, bad setting, full shared memory)
is not restarted: its stream has failed, the others go on.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import msgspec
import psutil

from mdstream import log as logs
from mdstream import recovery
from mdstream.config import Config, Credentials
from mdstream.errors import Exit, MdstreamError
from mdstream.feed import Assignment
from mdstream.feed import main as feed_main
from mdstream.frames import rundir
from mdstream.frames.head import Head
from mdstream.frames.rundir import RunDirectory, state_path
from mdstream.pool import SINGLE_THREADED
from mdstream.session.retry import backoff
from mdstream.simulator.server import main as simulator_main
from mdstream.simulator.settings import SimulatorSettings
from mdstream.telemetry.histogram import percentile_ms
from mdstream.telemetry.recorder import TelemetryRecorder
from mdstream.telemetry.sampler import Sampler
from mdstream.telemetry.schema import CORES, PROCESSES, STREAMS
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

SAMPLE_S = 1.0
_GO_PATIENCE_S = 20.0
"""How long the first fetches wait for the slowest feed to start."""

_HEALTHY_S = 60.0
"""A feed that ran this long gets short restart pauses again."""

_LINGER_S = 0.3
"""How long frames stay after the last row, for readers that follow them."""

_EVENTS = 200

_FATAL = frozenset({Exit.CONFIG, Exit.CREDENTIALS, Exit.SHARED_MEMORY})


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened, for people."""

    ts: datetime
    stream: str
    text: str


@dataclass(slots=True)
class FeedRecord:
    """What the supervisor knows of one stream and its feed process."""

    stream: str
    state: FeedState
    pauses: Iterator[float] = field(default_factory=backoff)
    process: SpawnProcess | None = None
    pipe: Connection | None = None
    generation: int = -1
    started: float = 0.0
    restart_at: float | None = None
    up: bool = False
    done: bool = False
    failure: str = ""
    exit_code: int = 0
    last_words: str = ""
    trouble: str = ""
    """Why the stream is not connected, as its session put it."""
    workers: list[int] = field(default_factory=list)
    ok: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    cycles: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Cycle → (start, end) in ns."""

    @property
    def running(self) -> bool:
        return self.process is not None

    def label(self, draining: bool) -> str:
        """The state of the stream, in one word."""
        if self.failure:
            return "failed"
        if self.done:
            return "stopped"
        if not self.running:
            return "restarting"
        if not self.up:
            return "starting"
        if draining:
            return "draining"
        return "streaming" if self.state["connected"] else "connecting"


class Supervisor:
    """Runs one engine from start to report. Blocks in `run`; `stop` may be called from a signal.

    `write_log` gets every log record of every process; `on_sample` is called after each second's
    telemetry, for a live view; `on_command` file descriptors are watched besides.
    """

    # The mutable state: the feeds' records, what stage the run is in, and the events so far.

    def __init__(
        self,
        config: Config,
        write_log: Callable[[dict[str, Any]], None],
        on_sample: Callable[[Supervisor], None] | None = None,
    ) -> None:
        self.config = config
        self.events: deque[RunEvent] = deque(maxlen=_EVENTS)
        self.feeds: dict[str, FeedRecord] = {}
        self.directory: RunDirectory | None = None
        self.draining = False
        self.aborted = False
        self.started_ns = self.ended_ns = 0
        self._write_log = write_log
        self._on_sample = on_sample
        self._context = multiprocessing.get_context("spawn")
        self._inputs: dict[Any, Callable[[], None]] = {}
        self._simulator: tuple[SpawnProcess, Connection] | None = None
        self._gone = False
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

    def watch(self, source: Any, act: Callable[[], None]) -> None:
        """Call `act` whenever `source` (something with a file descriptor) can be read."""
        self._inputs[source] = act

    def unwatch(self, source: Any) -> None:
        self._inputs.pop(source, None)

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
        os.environ.update(SINGLE_THREADED)
        # Python's tracker of semaphores reports those of killed feeds as it removes them: no news to us.
        ignored = "ignore:resource_tracker:UserWarning"
        os.environ["PYTHONWARNINGS"] = ",".join(
            filter(None, [os.environ.get("PYTHONWARNINGS"), ignored])
        )
        root = Path(self.config.frames.directory) if self.config.frames.directory else None
        for dead in rundir.reap(root):
            log.info("removed what the dead run %s had left", dead.name)
        with RunDirectory(root) as self.directory:
            self.started_ns = time.time_ns()
            try:
                self._start()
                self._recorder = TelemetryRecorder(self.path)
                self._sampler = Sampler()
                self._loop()
                self._drain()
                self.ended_ns = time.time_ns()
                self._sample()
                self._recorder.close()
                finish(self)
                if not self.aborted:
                    time.sleep(_LINGER_S)
            finally:
                self._kill_everything()
        return self._exit_code()

    # -- start

    def _start(self) -> None:
        config = self.config
        if config.simulated:
            config = self._start_simulator(config)
        self._effective = config
        for name in config.streams:
            state = FeedState.create(state_path(self.path, name))
            self.feeds[name] = FeedRecord(name, state)
        assert self.directory is not None
        self.directory.describe(
            started=datetime.now(UTC).isoformat(),
            streams=list(config.streams),
            workers=config.workers_per_stream(),
            urls=list(config.urls()),
            simulated=self.config.simulated,
        )
        log.info("run %s: %s", self.run_id, ", ".join(config.streams))
        for record in self.feeds.values():
            self._spawn(record)

    def _start_simulator(self, config: Config) -> Config:
        """Start the embedded simulator; the settings with its address and a key it accepts."""
        given = config.simulator
        settings = SimulatorSettings(
            port=0,
            streams=config.streams,
            seed=given.seed,
            rate=given.rate,
            messages_per_frame=given.messages_per_frame,
            latency_ms=given.latency_ms,
        )
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=simulator_main, args=(settings, theirs), name="simulator"
        )
        process.start()
        theirs.close()
        self._simulator = (process, ours)
        if not ours.poll(self.config.start_timeout_s):
            raise MdstreamError("the simulator did not start in time")
        try:
            kind, content = ours.recv()
        except EOFError:
            raise MdstreamError("the simulator ended while it started") from None
        if kind == "failed":
            raise MdstreamError(content)
        log.info(
            "no keys: running on the embedded simulator (made-up data); to go live, set "
            "APCA_API_KEY_ID and APCA_API_SECRET_KEY"
        )
        return msgspec.structs.replace(
            config,
            stream_url=f"ws://127.0.0.1:{content}",
            data_url=f"http://127.0.0.1:{content}",
            credentials=Credentials(key_id="simulated", secret_key="simulated"),
        )

    def _spawn(self, record: FeedRecord) -> None:
        record.generation += 1
        record.restart_at = None
        record.up = False
        record.last_words = ""
        record.state["heartbeat_ns"] = time.time_ns()
        assignment = Assignment(
            record.stream,
            self.path,
            self.run_id,
            self._effective,
            max(1, self.config.fetch.budget_per_minute // len(self.feeds)),
            record.generation,
        )
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=feed_main, args=(assignment, theirs), name=f"feed-{record.stream}"
        )
        process.start()
        theirs.close()
        record.process, record.pipe, record.started = process, ours, time.monotonic()

    # -- watch

    def _loop(self) -> None:
        deadline = None
        sample_at = time.monotonic()
        while not self.draining and not all(record.done for record in self.feeds.values()):
            now = time.monotonic()
            if now >= sample_at:
                self._sample()
                sample_at += SAMPLE_S
                if sample_at < now:
                    sample_at = now + SAMPLE_S
            self._wait(max(0.0, sample_at - now))
            self._check(time.monotonic())
            if not self._gone:
                self._maybe_go()
            elif deadline is None and self.config.duration:
                deadline = time.monotonic() + self.config.duration
            if deadline is not None and time.monotonic() >= deadline:
                log.info("the %g s are over", self.config.duration)
                self.draining = True

    def _wait(self, timeout: float) -> None:
        """Handle whatever comes within `timeout` seconds, at least once."""
        pipes = {r.pipe: r for r in self.feeds.values() if r.pipe is not None}
        sentinels = {r.process.sentinel: r for r in self.feeds.values() if r.process is not None}
        sources: list[Any] = [*pipes, *sentinels, *self._inputs, self._wake_read]
        for source in wait(sources, timeout):
            if source in pipes:
                self._receive(pipes[source])
            elif source in sentinels:
                self._ended(sentinels[source])
            elif source is self._wake_read or source == self._wake_read:
                os.read(self._wake_read, 1024)
            elif source in self._inputs:
                self._inputs[source]()

    def _receive(self, record: FeedRecord) -> None:
        """Take all messages of a feed that are there."""
        assert record.pipe is not None
        try:
            while record.pipe is not None and record.pipe.poll():
                kind, content = record.pipe.recv()
                self._take(record, kind, content)
        except (EOFError, OSError):
            record.pipe.close()
            record.pipe = None  # its exit code will say more

    def _take(self, record: FeedRecord, kind: str, content: Any) -> None:
        match kind:
            case "log":
                self._write_log(content)
            case "event":
                self._note(record.stream, content)
            case "trouble":
                record.trouble = content
            case "up":
                record.up = True
                log.info("%s started (pid %s)", record.stream, record.state["pid"])
                if self._gone:
                    self._tell(record, "go")
            case "workers":
                record.workers = content
            case "symbols":
                record.ok, record.failed = content
            case "cycle":
                number, started_ns, ended_ns, _ = content
                record.cycles[number] = (started_ns, ended_ns)
            case "failed" | "crashed":
                record.last_words = content

    def _check(self, now: float) -> None:
        """Hung feeds, feeds that do not start, restarts that are due."""
        for record in self.feeds.values():
            if record.process is not None:
                silent = (time.time_ns() - record.state["heartbeat_ns"]) / 1e9
                if record.up and silent > self.config.hang_timeout_s:
                    self._kill(record, f"hung: no heartbeat for {silent:.0f} s")
                elif not record.up and now - record.started > self.config.start_timeout_s:
                    self._kill(record, f"not up after {self.config.start_timeout_s:.0f} s")
            elif record.restart_at is not None and now >= record.restart_at:
                self._spawn(record)

    def _kill(self, record: FeedRecord, reason: str) -> None:
        assert record.process is not None
        record.last_words = reason
        _kill_tree(record.process)

    def _ended(self, record: FeedRecord) -> None:
        """A feed's process is gone: done, failed for good, or to be started again."""
        process = record.process
        assert process is not None
        if record.pipe is not None:
            self._receive(record)
        process.join()
        code = process.exitcode
        record.process = None
        record.up = False
        if record.pipe is not None:
            record.pipe.close()
            record.pipe = None
        record.state["connected"] = 0
        if code == Exit.OK and self.draining:
            record.done = True
            return
        reason = record.last_words or _why_ended(code)
        if code in _FATAL or self.draining:
            record.done, record.failure, record.exit_code = True, reason, code or 1
            self._note(record.stream, f"failed: {reason}", logging.ERROR)
            return
        if time.monotonic() - record.started > _HEALTHY_S:
            record.pauses = backoff()
        pause = next(record.pauses)
        record.restart_at = time.monotonic() + pause
        self._note(
            record.stream,
            f"feed process {reason}; starting it again in {pause:.1f} s",
            logging.WARNING,
        )

    def _maybe_go(self) -> None:
        """Once every feed is up, all fetch at once."""
        waiting = [r for r in self.feeds.values() if not r.up and not r.done]
        patient = time.time_ns() - self.started_ns < _GO_PATIENCE_S * 1e9
        if not waiting or not patient:
            self._gone = True
            for record in self.feeds.values():
                self._tell(record, "go")

    def command(self, stream: str, *message: Any) -> None:
        """Send a command to one feed (`subscribe` or `unsubscribe`, channels, symbols)."""
        self._tell(self.feeds[stream], *message)

    def _tell(self, record: FeedRecord, *message: Any) -> None:
        if record.pipe is not None:
            with contextlib.suppress(OSError):  # it is ending; its sentinel tells
                record.pipe.send(message)

    def _note(self, stream: str, text: str, level: int = 0) -> None:
        self.events.append(RunEvent(datetime.now(UTC), stream, text))
        if level:
            log.log(level, "%s: %s", stream, text)

    # -- stop

    def _drain(self) -> None:
        """Have every feed finish what it has; kill those that do not in time."""
        self.draining = True
        deadline = time.monotonic() + self.config.drain_timeout_s
        for record in self.feeds.values():
            if record.process is None:
                record.done = True  # between two lives: what it had is in its slabs
            self._tell(record, "drain")
        while any(r.running for r in self.feeds.values()) and not self.aborted:
            left = deadline - time.monotonic()
            if left <= 0:
                for record in self.feeds.values():
                    if record.process is not None:
                        self._kill(
                            record, f"not drained within {self.config.drain_timeout_s:.0f} s"
                        )
                deadline = time.monotonic() + 5.0
            self._wait(min(0.5, max(0.01, left)))
        for record in self.feeds.values():
            # Where a feed did not drain, what it had not committed is still in its slabs.
            leftovers = recovery.find(self.path, record.stream, record.state)
            recovery.settle(record.state, leftovers.pending)
            if not record.state["established"] and not record.failure and not self.aborted:
                record.failure = f"never connected: {record.trouble or 'no time to'}"
                record.exit_code = Exit.STREAM_FAILED

    def _kill_everything(self) -> None:
        for record in self.feeds.values():
            if record.process is not None:
                _kill_tree(record.process)
                record.process.join(5.0)
                record.process = None
        if self._simulator is not None:
            process, pipe = self._simulator
            pipe.close()
            process.terminate()
            process.join(2.0)
            if process.is_alive():
                process.kill()
            self._simulator = None

    def _exit_code(self) -> Exit:
        if self.aborted:
            return Exit.INTERRUPTED
        codes = {record.exit_code for record in self.feeds.values() if record.failure}
        if len(codes) == 1 and (code := codes.pop()) in _FATAL:
            return Exit(code)
        return Exit.STREAM_FAILED if any(r.failure for r in self.feeds.values()) else Exit.OK

    # -- measure

    def _sample(self) -> None:
        """A second's telemetry, and the live view made of it."""
        ts = time.time_ns()
        self._recorder.write(STREAMS, [self._stream_row(ts, r) for r in self.feeds.values()])
        processes = self._sampler.processes(self._roles())
        self._recorder.write(PROCESSES, [{"ts": ts, **_fields(sample)} for sample in processes])
        self._recorder.write(
            CORES,
            [
                {"ts": ts, "core": core, "busy_percent": busy}
                for core, busy in enumerate(self._sampler.cores())
            ],
        )
        if self._on_sample is not None:
            self._on_sample(self)

    def _roles(self) -> dict[int, tuple[str, str]]:
        """Process id → role and stream of everything that belongs to this run."""
        roles = {os.getpid(): ("supervisor", "")}
        if self._simulator is not None and self._simulator[0].pid is not None:
            roles[self._simulator[0].pid] = ("simulator", "")
        for record in self.feeds.values():
            if record.process is not None and record.process.pid is not None:
                roles[record.process.pid] = ("feed", record.stream)
                roles.update(dict.fromkeys(record.workers, ("worker", record.stream)))
        return roles

    def _stream_row(self, ts: int, record: FeedRecord) -> dict[str, Any]:
        state, accounts, done = record.state, record.state.accounts(), record.state.committed()
        row = {
            "ts": ts,
            "stream": record.stream,
            "state": record.label(self.draining),
            "generation": record.generation,
            **accounts,
            "fetch_messages": done["fetch_messages"],
            "fetch_rejected": done["fetch_rejected"],
            "t_stream_s": state["t_stream_ns"] / 1e9,
            "rows": self._rows(record.stream),
        }
        for name in (
            "pid", "reconnects", "cycles", "requests", "symbols_ok", "symbols_failed", "pool_size",
            "pool_busy", "pool_queue", "pool_rebuilds", "stalls",
        ):  # fmt: skip
            row[name] = state[name]
        for name, counts in (("latency", state.latency), ("feed_delay", state.feed_delay)):
            for label, quantile in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
                row[f"{name}_{label}_ms"] = percentile_ms(counts, quantile)
        return row

    def _rows(self, stream: str) -> int:
        folders = (self.path / "frames").glob(f"{stream}.*")
        return sum(
            Head(folder, write=False).rows for folder in folders if (folder / "head").exists()
        )


def _kill_tree(process: SpawnProcess) -> None:
    """Kill a feed and its workers: one that is stopped would never notice that its feed is gone."""
    assert process.pid is not None
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    process.kill()


def _fields(sample: Any) -> dict[str, Any]:
    return {name: getattr(sample, name) for name in sample.__slots__}


def _why_ended(code: int | None) -> str:
    if code is None:
        return "ended"
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with code {code}"
