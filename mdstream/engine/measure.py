"""The supervisor's measurements, written to the telemetry frames every second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mdstream.engine.feed_process import FeedProcess
from mdstream.pool import forkserver
from mdstream.telemetry.sampler import Sampler
from mdstream.telemetry.schema import CORES, MACHINE, PROCESSES, STREAMS
from mdstream.telemetry.state import read_stream
from mdstream.telemetry.writer import TelemetryWriter


class Measurements:
    """Writes one row per stream, process and core, and one for the machine, at each `sample`."""

    def __init__(self, run: Path, find_others: Callable[[], dict[int, str]] = dict) -> None:
        """`find_others` returns the roles of the processes that belong to no feed, by process id."""
        self._run = run
        self._find_others = find_others
        self.streams: dict[str, dict[str, Any]] = {}
        """The last sample of each stream, as its row in the frame."""
        self.writer = TelemetryWriter(run)
        self._sampler = Sampler()

    def sample(self, feeds: Iterable[FeedProcess]) -> None:
        """Measure everything now."""
        ts = time.time_ns()
        feeds = list(feeds)
        self.streams = {feed.stream: self._stream(ts, feed) for feed in feeds}
        self.writer.write(STREAMS, list(self.streams.values()))
        ended = [sample for feed in feeds for sample in feed.used]
        processes = self._sampler.sample_processes(self._roles(feeds), ended)
        for feed in feeds:
            feed.used = []
        self.writer.write(PROCESSES, [{"ts": ts, **sample._asdict()} for sample in processes])
        cores = self._sampler.sample_cores()
        self.writer.write(CORES, [{"ts": ts, **sample._asdict()} for sample in cores])
        machine = self._sampler.sample_machine(self._run)
        lost = {"telemetry_rows_lost": self.writer.lost}
        self.writer.write(MACHINE, [{"ts": ts, **machine._asdict(), **lost}])

    def close(self) -> None:
        self.writer.close()

    def _roles(self, feeds: list[FeedProcess]) -> dict[int, tuple[str, str]]:
        """Return the role and the stream of each process of this run, by process id."""
        roles = {os.getpid(): ("supervisor", "")}
        if (shared := forkserver.pid()) is not None:
            roles[shared] = ("forkserver", "")
        roles |= {pid: (role, "") for pid, role in self._find_others().items()}
        for feed in feeds:
            if feed.process is not None and feed.process.pid is not None:
                roles[feed.process.pid] = ("feed", feed.stream)
                roles.update(dict.fromkeys(feed.workers, ("worker", feed.stream)))
                if feed.forkserver_pid is not None:
                    roles[feed.forkserver_pid] = ("forkserver", feed.stream)
        return roles

    def _stream(self, ts: int, feed: FeedProcess) -> dict[str, Any]:
        return {
            "ts": ts,
            "stream": feed.stream,
            "state": feed.stage.label,
            **read_stream(self._run, feed.stream, feed.state),
        }
