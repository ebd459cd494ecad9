"""One stream's feed process as the supervisor sees it: start, messages, heartbeat, exit, restart.

    supervisor ── start, commands, drain, kill ──► FeedProcess ══ pipe ══► feed process
               ◄─ stage (feed_state), symbols ────             ◄═ messages, exit code ═

The stage of the service is one value. Every change of it goes through `feed_state.follow`. What an exit
code, a death or the end of the run means is decided in `feed_policy`. This class holds the current process,
and what is known from all processes that served the stream.

The file is long because every change of a feed's stage happens in this class.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from mdstream.engine import feed_policy
from mdstream.engine.event_log import EventLog
from mdstream.engine.feed_state import FeedEvent, Stage, follow
from mdstream.errors import Exit
from mdstream.feed.assignment import Assignment
from mdstream.feed.entry import run_feed
from mdstream.pool import forkserver
from mdstream.system import children, clock
from mdstream.system.mailbox import Inbox
from mdstream.telemetry.events import EventKind, RunEvent, Severity
from mdstream.telemetry.sampler import ProcessSample
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

_CODE_TIMEOUT_S = 2.0
"""How long the fork server of a feed may take to report its exit code."""
_UNKNOWN = 255
"""The exit code that `multiprocessing` reports after the fork server has ended."""


class FeedProcess:
    """The service of one stream, by one process after another.

    `events` records what people should know; `write_log` gets the log records of the process. `target` is
    the function that the process runs, with an `Assignment` and its end of the pipe.
    """

    # The service: written by this class alone, when a process starts, reports or ends.
    stage: Stage
    failure: str
    """Why the stream failed, in stage FAILED."""
    exit_code: int
    """The exit code that a failed stream gives to the command."""
    restart_at: float
    """When the next process is due, on the monotonic clock, in stage RESTARTING."""

    # The current process: written by `start` and `handle_exit`.
    process: BaseProcess | None
    sentinel: int | None
    """A descriptor that becomes readable when the process ends."""
    pipe: Connection | None
    _inbox: Inbox | None
    generation: int
    """The number of the process, from 0; -1 before the first."""
    _started: float
    """When it was started, on the clock of `_awake`."""
    _beat: tuple[int, float]
    """Its last heartbeat, and when that was first seen, on the same clock."""
    _established: int
    """Connections of the stream before this process."""
    _exit_reason: str
    """Why the process ends, as it reported it or as `kill` was given it."""
    _reported_code: Exit | None
    """The exit code that the process announced."""

    # What the processes have reported: written by `receive`.
    ok: Sequence[str]
    """Symbols that are served."""
    failed: Mapping[str, str]
    """Symbol → why it is not served."""
    cycles: dict[int, tuple[int, int]]
    """Fetch cycle → (start, end) in ns."""
    has_kernels: bool
    """Whether the process has switched to the compiled kernels, as it was asked to."""
    workers: Sequence[int]
    forkserver_pid: int | None
    up_since: float | None
    """When a process last came up, on the monotonic clock."""
    _trouble: str
    """Why the stream is not connected, in the words of its session; empty while it is."""
    _trouble_since: float
    _refusal: str
    """Why the service refuses subscriptions; empty if it refuses none."""

    # For the next process: written by `command` and `handle_exit`.
    _commands: list[tuple[Any, ...]]
    """Commands that every process of the stream gets, in order."""
    _deaths: int
    """How many processes in a row have died."""
    _cause: str
    """Why the last of them died."""

    # Written by `receive`, emptied by `Measurements`.
    used: list[ProcessSample]
    """The last samples of a process that has ended, and of its workers."""

    def __init__(
        self,
        stream: str,
        symbols: Sequence[str],
        state: FeedState,
        events: EventLog,
        write_log: Callable[[dict[str, Any]], None],
        target: Callable[[Assignment, Connection], None] = run_feed,
    ) -> None:
        self.stream = stream
        self.state = state
        self._symbols = symbols
        self._events = events
        self._write_log = write_log
        self._target = target
        self.stage = Stage.NEW
        self.failure, self.exit_code = "", 0
        self.restart_at = 0.0
        self.process = self.sentinel = self.pipe = self._inbox = None
        self.generation = -1
        self._awake = clock.Awake()
        self._started, self._established = 0.0, 0
        self._beat = (0, 0.0)
        self._exit_reason, self._reported_code = "", None
        self.ok, self.failed, self.cycles = (), {}, {}
        self.workers, self.forkserver_pid, self.has_kernels = (), None, False
        self.up_since = None
        self._trouble, self._trouble_since, self._refusal = "", 0.0, ""
        self._commands, self._deaths, self._cause = [], 0, ""
        self.used = []

    # -- in the order of a process's life

    def start(self, context: BaseContext, assignment: Assignment) -> None:
        """Start a process for the stream. Raises OSError or EOFError if `context` cannot."""
        self.generation = assignment.generation
        self.has_kernels = False
        self._exit_reason, self._reported_code = "", None
        self._established = self.state["established"]
        self.state["restarts"] = self.generation
        self.state["heartbeat_ns"] = time.monotonic_ns()
        ours, theirs = context.Pipe()
        process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=self._target, args=(assignment, theirs), name=f"feed-{self.stream}"
        )
        try:
            with children.protect_start(), children.without_script():
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.process, self._started = process, self._awake.now()
        self.pipe, self._inbox = ours, Inbox(ours)
        assert process.pid is not None
        # The process's own sentinel also becomes readable when its fork server ends.
        try:
            self.sentinel = os.pidfd_open(process.pid)
        except ProcessLookupError:  # it has ended already
            self.sentinel = os.dup(process.sentinel)
        self._follow(FeedEvent.START)
        if self.stage is Stage.FINISHING:
            self._send(("drain",))

    def command(self, *command: Any) -> None:
        """Send a command, its name and arguments, to the process, and to each one that replaces it."""
        self._commands.append(command)
        if self.stage.is_up:
            self._send(command)

    def receive(self) -> None:
        """Handle all messages that have arrived."""
        try:
            for message in self._inbox.receive() if self._inbox is not None else ():
                self._handle(*message)
        except (EOFError, OSError):
            self._close_pipe()  # the exit code says why

    def _handle(self, kind: str, content: Any) -> None:
        match kind:
            case "log":
                self._write_log(content)
            case "logs lost":
                text = f"{content} log records were dropped"
                self._report(RunEvent(EventKind.RESOURCES, text, Severity.WARNING, {"records": content}))
            case "event":
                self._handle_event(content)
            case "trouble":
                if content and not self._trouble:
                    self._trouble_since = time.monotonic()
                self._trouble = content
            case "up":
                self._handle_up()
            case "workers":
                self.workers, self.forkserver_pid = content
            case "symbols":
                ok, failed, self._refusal = content
                if ok or failed or self.stage is Stage.STREAMING:  # a new process has no symbols yet
                    self._set_symbols(ok, failed)
            case "cycle":
                number, started_ns, ended_ns = content
                self.cycles[number] = (started_ns, ended_ns)
            case "failed" | "crashed":
                self._exit_reason = content
            case "exit":
                self._reported_code, self.used = content

    def _handle_up(self) -> None:
        self._follow(FeedEvent.UP)
        self.up_since = time.monotonic()
        kind = EventKind.RESTARTED if self.generation else EventKind.STARTED
        fields = {"pid": self.state["pid"], "generation": self.generation}
        self._report(RunEvent(kind, f"{kind} (pid {self.state['pid']})", fields=fields))
        if self.stage.is_up:
            for command in self._commands:
                self._send(command)

    def _handle_event(self, event: RunEvent) -> None:
        """Record an event that the process has logged itself, and follow the state of its connection."""
        if event.kind is EventKind.CONNECTED:
            self._follow(FeedEvent.CONNECTED)
        elif event.kind is EventKind.LOST:
            self._follow(FeedEvent.LOST)
        elif event.kind is EventKind.KERNELS:
            self.has_kernels = True
        self._events.record(self.stream, event)

    def check(self, start_timeout_s: float, hang_timeout_s: float) -> None:
        """Kill a process that does not come up, or whose event loop hangs. Call it every second.

        Time in which this process was stopped too does not count (`clock.Awake`).
        """
        beat, now = self.state["heartbeat_ns"], self._awake.now()
        if beat != self._beat[0] or not self.stage.is_up:
            self._beat = (beat, now)
        silent_s = now - self._beat[1]
        if silent_s > hang_timeout_s:
            self.kill(f"hung: no heartbeat for {silent_s:.0f} s")
        elif self.stage is Stage.STARTING and now - self._started > start_timeout_s:
            self.kill(f"did not come up within {start_timeout_s:.0f} s")

    def drain(self) -> None:
        """Make the process commit what it has, and end. A stream without a process becomes HALTED."""
        if not self.stage.is_final:
            self._follow(FeedEvent.DRAIN)
            self._send(("drain",))

    def expire(self, reason: str) -> None:
        """Kill a process that has not drained in time. The stream fails with it."""
        if self.process is not None:
            self._follow(FeedEvent.EXPIRE)
            self.kill(reason)

    def kill(self, reason: str) -> None:
        """Kill the process and its workers: a stopped worker would never notice that its feed is gone."""
        if self.process is None or self.process.pid is None:
            return
        self._exit_reason = reason
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
        self.process.kill()
        self._kill_workers()

    def _kill_workers(self) -> None:
        """Kill workers that are not below the process but beside it: from the supervisor's fork server."""
        for pid in self.workers:
            with contextlib.suppress(psutil.Error):
                if (worker := psutil.Process(pid)).ppid() == forkserver.pid():
                    worker.kill()

    def handle_exit(self) -> None:
        """Handle the end of the process: the service has stopped or failed, or needs another process.

        The stage is RESTARTING then, or HALTED at the end of the run, where the supervisor decides.
        """
        code = self._reap()
        reason = self._exit_reason or feed_policy.explain_exit(code)
        match feed_policy.classify_exit(self.stage, code):
            case FeedEvent.STOP if self.state["established"] > self._established:
                self._stop()
            case FeedEvent.STOP:
                self.give_up()
            case FeedEvent.FAIL:
                self._fail(reason, code or Exit.STREAM_FAILED)
            case _:
                self._die(reason)

    def _reap(self) -> int | None:
        """Release everything that belongs to the process; return its exit code."""
        process = self.process
        assert process is not None
        self.receive()
        process.join(_CODE_TIMEOUT_S)
        if process.exitcode is None:
            forkserver.kill()
            process.join(_CODE_TIMEOUT_S)
        self._kill_workers()  # they end by themselves, but must not meet the next process
        self.workers, self.forkserver_pid = (), None
        self._close_pipe()
        if self.sentinel is not None:
            os.close(self.sentinel)
        self.process = self.sentinel = None
        self.state["connected"] = 0
        code = process.exitcode
        return self._reported_code if code in (None, _UNKNOWN) else code

    def _die(self, reason: str) -> None:
        self._deaths = feed_policy.count_deaths(self._deaths, self._awake.now() - self._started)
        self._cause = reason
        if self.stage is not Stage.FINISHING:
            self._follow(FeedEvent.DIED)
        text, fields = f"feed process {reason}", {"reason": reason, "deaths": self._deaths}
        if self.stage is Stage.RESTARTING:
            pause = feed_policy.restart_pause(self._deaths)
            self.restart_at = time.monotonic() + pause
            text, fields = f"{text}; restarting it in {pause:.1f} s", {**fields, "pause_s": pause}
        else:
            text += " at the end of the run"
        self._report(RunEvent(EventKind.DIED, text, Severity.WARNING, fields))
        if self.stage is Stage.FINISHING:
            self.give_up()

    # -- the end of the service

    def give_up(self) -> None:
        """End the service without another process, as stopped or as failed."""
        was_connected = self.state["established"] > 0
        if failure := feed_policy.failure_without_process(self._deaths, self._cause, was_connected):
            self._fail(failure, Exit.STREAM_FAILED)
        else:
            self._stop()

    def fail_if_unserved(self, ended: float) -> None:
        """Fail the stream if it was not served when the run began to end, at `ended` (monotonic)."""
        if self.stage is Stage.FAILED:
            return
        done = self.state.read_committed()
        service = feed_policy.Service(
            was_connected=self.state["established"] > 0,
            has_rows=done["committed"] + done["fetch_committed"] > 0,
            trouble=self._trouble,
            trouble_s=ended - self._trouble_since,
            up_s=None if self.up_since is None else ended - self.up_since,
            ok=len(self.ok),
            failed=self.failed,
            subscribed=self.state["subscriptions"],
            refused=self.state["subscriptions_refused"],
            lost=self.state["subscriptions_lost"],
            refusal=self._refusal,
            wanted=self.state["subscriptions_wanted"],
            most=self.state["subscriptions_most"],
        )
        if failure := feed_policy.failure_at_end(service):
            self._fail(failure, Exit.STREAM_FAILED)

    def _stop(self) -> None:
        self._follow(FeedEvent.STOP)
        self._report(RunEvent(EventKind.STOPPED, "stopped"))

    def _fail(self, reason: str, code: int) -> None:
        """Fail the stream for good: none of its symbols is served any more."""
        self._follow(FeedEvent.FAIL)
        self.failure, self.exit_code = reason, code
        self._set_symbols((), {**dict.fromkeys([*self._symbols, *self.ok], reason), **self.failed})
        self.state["symbols_ok"], self.state["symbols_failed"] = 0, len(self.failed)
        text, fields = f"failed: {reason}", {"reason": reason, "exit_code": int(code)}
        self._report(RunEvent(EventKind.FAILED, text, Severity.ERROR, fields))

    # -- parts of the above

    def _follow(self, event: FeedEvent) -> None:
        self.stage = follow(self.stage, event)

    def _report(self, event: RunEvent) -> None:
        self._events.report(self.stream, event)

    def _set_symbols(self, ok: Iterable[str], failed: Mapping[str, str]) -> None:
        before = (self.ok, self.failed)
        self.ok, self.failed = tuple(ok), failed
        if before != (self.ok, self.failed):
            self._events.record_symbols(self.stream, before, (self.ok, self.failed))

    def _send(self, command: tuple[Any, ...]) -> None:
        if self.pipe is not None:
            with contextlib.suppress(OSError):  # the process is ending, and `handle_exit` follows
                self.pipe.send(command)

    def _close_pipe(self) -> None:
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = self._inbox = None
