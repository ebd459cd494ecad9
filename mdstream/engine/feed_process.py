"""One stream's feed process, as the supervisor sees it: started, heard, watched, started again.

starting ──up──► connecting ◄──► streaming ──drain──► draining ──► stopped
    ▲                 │               │                   │
    └── restarting ◄──┴─── died ◄─────┘                   └──► failed (also at once: key, setting, memory)
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from mdstream.errors import UNRECOVERABLE, Exit
from mdstream.feed.feed import Assignment
from mdstream.feed.process import main as feed_main
from mdstream.interrupts import block_interrupts
from mdstream.pool import forkserver
from mdstream.session.retry import backoff
from mdstream.telemetry.sampler import ProcessSample
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

_CONNECT_PATIENCE_S = 3.0
_LOST_PATIENCE_S = 10.0
_CODE_PATIENCE_S = 2.0
"""How long the fork server of a feed has to tell how that ended."""
_UNSEEN = 255
"""What `multiprocessing` says where the fork server is gone."""
_HEALTHY_S = 60.0
"""A feed that ran this long gets short restart pauses again."""


@dataclass(slots=True)
class FeedProcess:
    """What is known of one stream, through all the processes that serve it.

    `note` is told what people should know, with a log level (0: none); `write_log` gets the records
    of the process.
    """

    stream: str
    state: FeedState
    note: Callable[[str, str, int], None]
    write_log: Callable[[dict[str, Any]], None]

    # The mutable state: the process of the moment, and what it told.
    process: BaseProcess | None = None
    sentinel: int | None = None
    """Can be read once the process has ended."""
    pipe: Connection | None = None
    generation: int = -1
    """Counts the processes, from 0."""
    started: float = 0.0
    restart_at: float | None = None
    up: bool = False
    up_since: float = 0.0
    gone: bool = False
    """Whether the process was told to begin fetching."""
    done: bool = False
    failure: str = ""
    exit_code: int = 0
    trouble: str = ""
    """Why the stream is not connected, as its session put it."""
    lost_at: float = 0.0
    """When that began, on the monotonic clock."""
    workers: list[int] = field(default_factory=list)
    forkserver_pid: int | None = None
    symbols: Sequence[str] = ()
    """What the stream was configured to follow."""
    ok: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Symbol → why it is not served."""
    used: list[ProcessSample] = field(default_factory=list)
    """What a process that has ended, and its workers, had used by then; until somebody takes it."""
    cycles: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Fetch cycle → (start, end) in ns."""
    deaths: int = 0
    """How many processes in a row ended before their time."""
    last_words: str = ""
    """Why the process ended, as it put it."""
    cause: str = ""
    """Why the process before this one died."""
    _established: int = 0
    """Connections established before this process."""
    _condemned: bool = False
    """Whether the process was killed for good."""
    _told_code: Exit | None = None
    """How it said that it would end."""
    _changes: list[tuple[Any, ...]] = field(default_factory=list)
    _pauses: Iterator[float] = field(default_factory=backoff)

    def label(self, draining: bool) -> str:
        """The state of the stream, in one word."""
        if self.failure:
            return "failed"
        if self.done:
            return "stopped"
        if self.process is None:
            return "restarting"
        if not self.up:
            return "starting"
        if draining:
            return "draining"
        return "streaming" if self.state["connected"] else "connecting"

    # -- in the order of a process's life

    def start(self, context: BaseContext, assignment: Assignment) -> None:
        """Start a process for the stream. Raises OSError or EOFError where `context` cannot."""
        self.generation = assignment.generation
        self.symbols = assignment.config.stream.symbols
        self.restart_at = None
        self.up = self.gone = False
        self.last_words = ""
        self._told_code = None
        self._established = self.state["established"]
        self.state["restarts"] = self.generation
        self.state["heartbeat_ns"] = time.time_ns()
        ours, theirs = context.Pipe()
        process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=feed_main, args=(assignment, theirs), name=f"feed-{self.stream}"
        )
        try:
            with block_interrupts(), forkserver.without_main():
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.process, self.pipe, self.started = process, ours, time.monotonic()
        assert process.pid is not None
        # The process's own sentinel would tell of its fork server's end as well.
        try:
            self.sentinel = os.pidfd_open(process.pid)
        except ProcessLookupError:  # so soon
            self.sentinel = os.dup(process.sentinel)

    def tell(self, *message: Any) -> None:
        """Send a command: its name and arguments. Changes of subscriptions outlive the process."""
        if message[0] in ("subscribe", "unsubscribe"):
            self._changes.append(message)
            if not self.up:
                return
        self._send(message)

    def _send(self, message: tuple[Any, ...]) -> None:
        if self.pipe is not None:
            with contextlib.suppress(OSError):  # it is ending; its sentinel tells
                self.pipe.send(message)

    def receive(self) -> None:
        """Take all messages that are there."""
        try:
            while self.pipe is not None and self.pipe.poll():
                self._take(*self.pipe.recv())
        except (EOFError, OSError):
            self._hang_up()  # its exit code will say more

    def _take(self, kind: str, content: Any) -> None:
        match kind:
            case "log":
                self.write_log(content)
            case "event":
                self.note(self.stream, content, 0)
            case "trouble":
                if content and not self.trouble:
                    self.lost_at = time.monotonic()
                self.trouble = content
            case "up":
                self.up = True
                self.up_since = time.monotonic()
                log.info("%s started (pid %s)", self.stream, self.state["pid"])
                for message in self._changes:
                    self._send(message)  # what was subscribed while a former process served
            case "workers":
                self.workers, self.forkserver_pid = content
            case "symbols":
                if any(content) or self.state["connected"]:  # one that just began knows nothing yet
                    self.ok, self.failed = content
            case "cycle":
                number, started_ns, ended_ns = content
                self.cycles[number] = (started_ns, ended_ns)
            case "failed" | "crashed":
                self.last_words = content
            case "exit":
                self._told_code, self.used = content

    def check(self, start_timeout_s: float, hang_timeout_s: float) -> None:
        """Kill the process if it does not start, or its loop does not turn."""
        if self.process is None:
            return
        silent = (time.time_ns() - self.state["heartbeat_ns"]) / 1e9
        if self.up and silent > hang_timeout_s:
            self.kill(f"hung: no heartbeat for {silent:.0f} s")
        elif not self.up and time.monotonic() - self.started > start_timeout_s:
            self.kill(f"was not up after {start_timeout_s:.0f} s")

    def kill(self, reason: str, final: bool = False) -> None:
        """Kill the process and its workers: a stopped worker would never notice that its feed is gone.
        `final`: the stream has failed with it.
        """
        if self.process is None or self.process.pid is None:
            return
        self.last_words, self._condemned = reason, final
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
        self.process.kill()

    def ended(self, draining: bool) -> None:
        """The process is gone: done, failed for good, or to be started again after a pause; what becomes of
        one that died while it drained is the supervisor's to say.
        """
        process = self.process
        assert process is not None
        self.receive()
        process.join(_CODE_PATIENCE_S)
        if process.exitcode is None:
            forkserver.kill()
            process.join(_CODE_PATIENCE_S)
        self._hang_up()
        code = process.exitcode
        if code in (None, _UNSEEN):
            code = self._told_code
        if self.sentinel is not None:
            os.close(self.sentinel)
        self.process = self.sentinel = None
        self.up = False
        self.state["connected"] = 0
        if code == Exit.OK and draining:
            if self.state["established"] == self._established:
                self.give_up_restart()
            self.done = True
            return
        reason = self.last_words or why_ended(code)
        if code in UNRECOVERABLE or self._condemned:
            self.fail(reason, code or Exit.STREAM_FAILED)
            return
        if time.monotonic() - self.started > _HEALTHY_S:
            self._pauses, self.deaths = backoff(), 0
        self.deaths += 1
        self.cause = reason
        if draining:
            self.note(self.stream, f"feed process {reason} at the end of the run", logging.WARNING)
            return
        pause = next(self._pauses)
        self.restart_at = time.monotonic() + pause
        text = f"feed process {reason}; starting it again in {pause:.1f} s"
        self.note(self.stream, text, logging.WARNING)

    def give_up_restart(self) -> None:
        """The run ends between two lives of the process, or before one came to serve.

        What it had received is in its slabs. One death that came too late to be mended is no failure of
        the stream; one that never served, or could not be kept alive, is.
        """
        if self.deaths > 1 or (self.deaths and not self.state["established"]):
            times = f" ({self.deaths} times in a row)" if self.deaths > 1 else ""
            self.fail(f"feed process {self.cause}{times}", Exit.STREAM_FAILED)
        else:
            self.done = True

    def fail(self, reason: str, code: int) -> None:
        """Give the stream up: none of its symbols is served any more."""
        self.done, self.failure, self.exit_code = True, reason, code
        self.failed = {**dict.fromkeys([*self.symbols, *self.ok], reason), **self.failed}
        self.ok = []
        self.state["symbols_ok"], self.state["symbols_failed"] = 0, len(self.failed)
        self.note(self.stream, f"failed: {reason}", logging.ERROR)

    def judge(self, ended: float) -> None:
        """Whether a run that began to end at `ended` left the stream without its server.

        One that had no time to connect has not failed; one that had trouble, or time, has, and so has
        one that lost its server and could not get it back.
        """
        trouble = self.trouble
        if self.failure:
            return
        if not self.state["established"]:
            if not trouble and self.up_since and ended - self.up_since > _CONNECT_PATIENCE_S:
                trouble = "no answer from the server yet"
            if trouble:
                self.fail(f"never connected: {trouble}", Exit.STREAM_FAILED)
        elif trouble and ended - self.lost_at > _LOST_PATIENCE_S:
            away = ended - self.lost_at
            self.fail(f"without its server for the last {away:.0f} s: {trouble}", Exit.STREAM_FAILED)
        elif self.failed and not self.ok and not self._has_rows():
            symbol, reason = next(iter(sorted(self.failed.items())))
            self.fail(f"none of its symbols is served ({symbol}: {reason})", Exit.STREAM_FAILED)

    def _has_rows(self) -> bool:
        done = self.state.committed()
        return done["committed"] + done["fetch_committed"] > 0

    def _hang_up(self) -> None:
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None


def why_ended(code: int | None) -> str:
    """How a process ended, in words, by its exit code."""
    if code is None:
        return "ended"
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with code {code}"
