"""The start of feed processes: forked from a server that has loaded their code, or spawned."""

from __future__ import annotations

import logging
import multiprocessing

from mdstream.engine.feed_process import FeedProcess
from mdstream.feed.assignment import Assignment
from mdstream.pool import early, forkserver
from mdstream.pool.pool import forkserver_modules

log = logging.getLogger(__name__)


class Launcher:
    """Starts the feeds of a run. `close` ends the fork server."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        early.load_for_feeds()
        self._forked = forkserver.take(*forkserver_modules(*early.FEEDS))
        self._spawned = multiprocessing.get_context("spawn")

    def start(self, feed: FeedProcess, assignment: Assignment) -> None:
        """Start a process for `feed`. If the fork server fails or hangs, spawn one instead."""
        try:
            with forkserver.kill_after(self._timeout_s):
                feed.start(self._forked, assignment)
        except (EOFError, OSError) as error:
            log.warning(
                "%s: cannot fork a process (%r); spawning one, which takes longer", feed.stream, error
            )
            feed.start(self._spawned, assignment)

    def close(self) -> None:
        forkserver.leave()
