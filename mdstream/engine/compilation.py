"""The compilation of the decoders, beside a run that streams already.

not on disk ─► a process compiles, at low priority ─► done: all feeds switch ─► in use
                    │ it fails, or is killed
                    └─► the run goes on with the fallback decoder
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Iterable

from mdstream.engine.feed_policy import explain_exit
from mdstream.engine.feed_process import FeedProcess
from mdstream.pool.worker_code import COMPILING, compile_kernels, count_kernels, warn_of_no_kernels

log = logging.getLogger(__name__)


class Compilation:
    """Compiles the decoders if they are not on disk. Make it once all feeds are up: they come first.

    `end` belongs to the end of the run.
    """

    # Written only here.
    sentinel: int | None
    """A descriptor that becomes readable when the process ends; None without a process."""
    _is_due: bool
    """Whether feeds are switching to the kernels."""
    _process: subprocess.Popen[str] | None
    _started: float

    def __init__(self) -> None:
        self.sentinel = self._process = None
        self._is_due = False
        self._started = time.monotonic()
        try:
            self._process = compile_kernels(beside=True)
        except OSError as error:
            warn_of_no_kernels(error)
        if self._process is not None:
            self.sentinel = os.pidfd_open(self._process.pid)
            log.info("%s. Until then, the slower fallback decoder decodes", COMPILING)

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def progress(self) -> str:
        """How far it is; empty unless it is running."""
        if self._process is None:
            return ""
        done, total = count_kernels()
        return (
            f"compiling the decoders, once: {done} of {total} done; until then the fallback decoder decodes"
        )

    def finish(self, feeds: Iterable[FeedProcess]) -> None:
        """Handle the end of the process: make the feeds switch, or log why they cannot."""
        assert self._process is not None
        _, output = self._process.communicate()
        code = self._process.returncode
        self._forget()
        if code:
            warn_of_no_kernels(output.strip() or f"the compiler {explain_exit(code)}")
            return
        self._is_due = True
        for feed in feeds:
            feed.command("kernels")

    def check(self, feeds: Iterable[FeedProcess]) -> None:
        """Log once that all feeds have switched. Call it now and then."""
        if self._is_due and all(feed.has_kernels or feed.stage.is_final for feed in feeds):
            self._is_due = False
            seconds = time.monotonic() - self._started
            log.info("the compiled decoders are in use from now on, after %.0f s", seconds)

    def end(self) -> None:
        """Kill the process. What it has compiled so far is on disk, and the next run continues."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._forget()

    def _forget(self) -> None:
        self._process = None
        if self.sentinel is not None:
            os.close(self.sentinel)
            self.sentinel = None
