"""The feed's process: its entry, its heartbeat, its end.

What it serves is `mdstream.feed.feed`; what the supervisor sees of it, `mdstream.engine.feed_process`.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from mdstream import children
from mdstream.errors import Exit, MdstreamError
from mdstream.feed.assignment import Assignment
from mdstream.feed.feed import HEARTBEAT_S, Feed
from mdstream.frames.rundir import state_path
from mdstream.handoff.space import NO_ROOM
from mdstream.log import Outbox, set_up_child
from mdstream.pool import forkserver
from mdstream.pool.pool import SINGLE_THREADED, WorkerPool
from mdstream.streams import STREAMS
from mdstream.telemetry.sampler import ProcessSample, Sampler
from mdstream.telemetry.state import FeedState

log = logging.getLogger(__name__)

_EXIT_WAIT_S = 3.0


def main(assignment: Assignment, pipe: Connection) -> None:
    """Entry of the feed's process. Ends it with an `Exit` code; says why over `pipe` if not OK."""
    children.ignore_terminal()  # Ctrl-C is the supervisor's to interpret
    os.environ.update(SINGLE_THREADED)
    if assignment.config.workers:
        forkserver.copy_here(unneeded=pipe)
    _die_with_parent()
    outbox = Outbox(pipe)
    set_up_child(outbox, assignment.stream, assignment.config.log_level)
    code, used = Exit.OK, list[ProcessSample]()
    try:
        uvloop.run(serve(assignment, outbox, pipe, used))
    except MdstreamError as error:
        outbox.put("failed", str(error))  # the supervisor says it, once
        code = error.exit_code
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            outbox.put("failed", f"no room left: {error}")
            code = Exit.SHARED_MEMORY
        else:
            log.exception("the feed failed")
            outbox.put("crashed", f"{type(error).__name__}: {error}")
            code = Exit.STREAM_FAILED
    used += Sampler().sample_processes({os.getpid(): ("feed", assignment.stream)})
    outbox.put("exit", (code, used))  # the fork server, who would know the code, may be gone
    outbox.close()
    # Threads of a broken executor may hold up a clean exit; not for long.
    watchdog = threading.Timer(_EXIT_WAIT_S, os._exit, (code,))
    watchdog.daemon = True
    watchdog.start()
    sys.exit(code)


async def serve(
    assignment: Assignment, outbox: Outbox, pipe: Connection, used: list[ProcessSample]
) -> None:
    """Serve one stream until the supervisor says drain. Raises what makes the stream fail. `used` gets what
    its workers had used at the end.
    """
    state = FeedState(state_path(assignment.run, assignment.stream), write=True)
    state["pid"] = os.getpid()
    config = assignment.config
    asyncio.get_running_loop().set_exception_handler(_tell)
    workers: list[int] = []

    def started(pids: list[int], forkserver_pid: int | None) -> None:
        workers[:] = pids
        outbox.put("workers", (pids, forkserver_pid))

    pool = WorkerPool(config.workers, config.handoff.ticket_timeout_s, started=started)
    beat = asyncio.create_task(_beat(state))
    try:
        await pool.start(bars=STREAMS[assignment.stream].bar_rules is not None)
        await Feed(assignment, outbox, pipe, state, pool).run()
    finally:
        beat.cancel()
        state["connected"] = 0
        used += Sampler().sample_processes(dict.fromkeys(workers, ("worker", assignment.stream)))
        await pool.close()


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that no task awaited, such as one of a connection that was already given up."""
    error = context.get("exception")
    if isinstance(error, OSError):  # which errors of TLS are, too
        log.debug("%s: %s", context["message"], error)
    else:
        log.error("%s", context["message"], exc_info=error)


async def _beat(state: FeedState) -> None:
    """Show the supervisor that this process's loop turns."""
    while True:
        state["heartbeat_ns"] = time.time_ns()
        await asyncio.sleep(HEARTBEAT_S)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os._exit(Exit.ORPHANED)

    if parent is not None:
        threading.Thread(target=watch, name="parent-watch", daemon=True).start()
