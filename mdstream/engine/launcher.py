"""How feed processes come up: forked from one server that has loaded their code, or started anew."""

from __future__ import annotations

import logging
import multiprocessing

from mdstream import children
from mdstream.engine.feed_process import FeedProcess
from mdstream.feed.feed import Assignment
from mdstream.pool import forkserver
from mdstream.pool.pool import forkserver_modules

log = logging.getLogger(__name__)


class Launcher:
    """Starts the feeds of a run; `close` ends the fork server."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        needed = forkserver_modules("mdstream.feed.process")
        with children.starting():
            forkserver.begin(*needed)
        self._forked = forkserver.take(*needed)
        self._spawned = multiprocessing.get_context("spawn")

    def start(self, feed: FeedProcess, assignment: Assignment) -> None:
        """Start a process for `feed`. A fork server that cannot, or hangs, costs time and no stream."""
        try:
            with forkserver.killed_after(self._timeout_s):
                feed.start(self._forked, assignment)
        except (EOFError, OSError) as error:
            log.warning("%s: cannot fork a process (%r); starting it anew", feed.stream, error)
            feed.start(self._spawned, assignment)

    def close(self) -> None:
        forkserver.leave()
