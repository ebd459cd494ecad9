"""The feed's process: its entry, its heartbeat, its end.

It runs `mdstream.feed.feed`; the supervisor's side is `mdstream.engine.feed_process`.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import uvloop

from mdstream.errors import Exit, MdstreamError, NoSpaceError, RunRemovedError
from mdstream.feed.assignment import Assignment
from mdstream.feed.feed import BEAT_S, HEARTBEAT_S, Feed
from mdstream.feed.pipeline import FULL_S
from mdstream.frames.rundir import lock_feed, lock_path, state_path
from mdstream.handoff.space import NO_ROOM
from mdstream.log import line_writer, set_up
from mdstream.pool import forkserver, ipc_names
from mdstream.pool.pool import SINGLE_THREADED, WorkerPool
from mdstream.system import children
from mdstream.system.clock import next_beat
from mdstream.system.mailbox import Outbox
from mdstream.system.resources import is_too_many_files, too_many_files
from mdstream.telemetry.sampler import ProcessSample, Sampler
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

_EXIT_WAIT_S = 3.0

T = TypeVar("T")


def main(assignment: Assignment, pipe: Connection) -> None:
    """Run the feed's process, and end it with an `Exit` code; send the reason over `pipe` if not OK."""
    children.ignore_terminal()  # the supervisor handles Ctrl-C
    ipc_names.allow_lost_tracker()
    os.environ.update(SINGLE_THREADED)
    if assignment.config.adapts:
        forkserver.share()
    elif assignment.config.workers:
        forkserver.copy_here(unneeded=pipe)
    outbox = Outbox(pipe)
    set_up(assignment.config.log.level, partial(outbox.put, "log"), assignment.stream)
    _watch_parent(assignment)
    code, used = Exit.OK, list[ProcessSample]()
    try:
        uvloop.run(serve(assignment, outbox, pipe, used))
    except MdstreamError as error:
        outbox.put("failed", str(error))  # the supervisor logs it, once
        code = error.exit_code
    except Exception as error:
        if not lock_path(assignment.run).exists():
            removed = RunRemovedError(str(assignment.run))
            outbox.put("failed", str(removed))
            code = removed.exit_code
        elif isinstance(error, OSError) and error.errno in NO_ROOM:
            outbox.put("failed", f"no room left: {error}")
            code = Exit.SHARED_MEMORY
        elif is_too_many_files(error):
            outbox.put("failed", str(too_many_files()))
            code = Exit.STREAM_FAILED
        else:
            log.exception("the feed failed")
            outbox.put("crashed", f"{type(error).__name__}: {error}")
            code = Exit.STREAM_FAILED
    used += Sampler().sample_processes({os.getpid(): ("feed", assignment.stream)})
    outbox.put("exit", (code, used))  # the fork server, which knows the exit code, may be gone
    outbox.close()
    # Threads of a broken executor may delay a clean exit: limit that.
    watchdog = threading.Timer(_EXIT_WAIT_S, os._exit, (code,))
    watchdog.daemon = True
    watchdog.start()
    sys.exit(code)


async def serve(
    assignment: Assignment, outbox: Outbox, pipe: Connection, used: list[ProcessSample]
) -> None:
    """Serve one stream until the supervisor sends `drain`. Raises the error that the stream fails with.
    Appends the workers' samples at the end to `used`.
    """
    await _wait_for_room(lambda: lock_feed(assignment.run, assignment.stream))
    state = FeedState(state_path(assignment.run, assignment.stream), write=True)
    state["pid"] = os.getpid()
    config = assignment.config
    asyncio.get_running_loop().set_exception_handler(_log_unawaited_error)
    workers: list[int] = []

    def report_workers(pids: list[int], forkserver_pid: int | None) -> None:
        workers[:] = pids
        outbox.put("workers", (pids, forkserver_pid))

    # Whatever killed a predecessor may be in a batch that it left: that one must meet a worker first.
    size = min(assignment.generation, 1) if config.adapts else config.workers
    pool = WorkerPool(size, config.handoff.ticket_timeout_s, on_change=report_workers, most=config.workers)
    beat = asyncio.create_task(_beat(state))
    try:
        await pool.start()
        feed = await _wait_for_room(lambda: Feed(assignment, outbox, pipe, state, pool))
        await feed.run()
    finally:
        beat.cancel()
        state["connected"] = 0
        used += Sampler().sample_processes(dict.fromkeys(workers, ("worker", assignment.stream)))
        await pool.close()


async def _wait_for_room(make: Callable[[], T]) -> T:
    """Return `make()`. While shared memory has no room for its files, try again, at most for `FULL_S`."""
    started, reported = time.monotonic(), False
    while True:
        try:
            return make()
        except NoSpaceError as error:
            if time.monotonic() - started > FULL_S:
                raise
            if not reported:
                log.warning("%s; waiting up to %.0f s for room", error, FULL_S)
                reported = True
        await asyncio.sleep(HEARTBEAT_S)


def _log_unawaited_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that no task awaited, such as one of a connection that is no longer used."""
    error = context.get("exception")
    if isinstance(error, OSError):  # TLS errors too
        log.debug("%s: %s", context["message"], error)
    else:
        log.error("%s", context["message"], exc_info=error)


async def _beat(state: FeedState) -> None:
    """Show the supervisor that this process's event loop runs."""
    while True:
        state["heartbeat_ns"] = time.monotonic_ns()
        await next_beat(BEAT_S)


def _watch_parent(assignment: Assignment) -> None:
    """Watch the supervisor. If it dies, the feed drains; if that takes too long, end the process.

    The end of the pipe makes the feed drain (`Feed`). What it received is then in frames and journal, and a
    recorder stores it.
    """
    parent, config = multiprocessing.parent_process(), assignment.config

    def watch() -> None:
        assert parent is not None
        parent.join()
        set_up(config.log.level, line_writer(config.log.json), assignment.stream)
        log.warning("the supervisor died; committing what was received, then ending")
        time.sleep(config.drain_timeout_s)
        log.error("not drained within %.0f s", config.drain_timeout_s)
        os._exit(Exit.ORPHANED)

    if parent is not None:
        threading.Thread(target=watch, name="parent-watch", daemon=True).start()
