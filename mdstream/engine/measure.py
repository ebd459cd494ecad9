"""The supervisor's measurements, written to the telemetry frames every second.

While little arrives, processes and machine are measured every `_QUIET_S`: to read what the system counts
for each process costs more than the messages of a quiet stream.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdstream.engine.feed_process import FeedProcess
from mdstream.pool import forkserver
from mdstream.telemetry.sampler import Sampler
from mdstream.telemetry.schema import CORES, MACHINE, PROCESSES, STREAMS
from mdstream.telemetry.state import read_stream
from mdstream.telemetry.writer import TelemetryWriter

_QUIET_S = 5.0
_FEW_PAYLOADS = 100
"""Payloads of all streams since the last measurement of processes up to which the run is quiet."""


class Measurements:
    """Writes one row per stream, process and core, and one for the machine, at each `sample`."""

    # Written by `sample`.
    streams: dict[str, dict[str, Any]]
    """The last sample of each stream, as its row in the frame."""
    _measured: tuple[float, int]
    """When processes were measured last, and how many payloads had been received."""
    _noted: tuple[dict[int, tuple[str, str]], int]
    """The processes of that measurement, with roles and streams, and the rows that were lost until then."""

    def __init__(
        self, run: Path, simulator_pid: int | None, recorder_pids: Callable[[], list[int]]
    ) -> None:
        self._run = run
        self._simulator_pid = simulator_pid
        self._recorder_pids = recorder_pids
        self.streams = {}
        self._measured, self._noted = (float("-inf"), 0), ({}, 0)
        self.writer = TelemetryWriter(run)
        self._sampler = Sampler()

    def sample(self, feeds: Iterable[FeedProcess]) -> None:
        """Measure everything now."""
        ts = time.time_ns()
        feeds = list(feeds)
        self.streams = {feed.stream: self._stream(ts, feed) for feed in feeds}
        self.writer.write(STREAMS, list(self.streams.values()))
        cores = self._sampler.sample_cores()
        self.writer.write(CORES, [{"ts": ts, **asdict(sample)} for sample in cores])
        if not self._is_quiet(feeds):
            self._sample_processes(ts, feeds)

    def _sample_processes(self, ts: int, feeds: list[FeedProcess]) -> None:
        ended = [sample for feed in feeds for sample in feed.used]
        processes = self._sampler.sample_processes(self._noted[0], ended)
        for feed in feeds:
            feed.used = []
        self.writer.write(PROCESSES, [{"ts": ts, **asdict(sample)} for sample in processes])
        machine = self._sampler.sample_machine(self._run)
        lost = {"telemetry_rows_lost": self.writer.lost}
        self.writer.write(MACHINE, [{"ts": ts, **asdict(machine), **lost}])

    def _is_quiet(self, feeds: list[FeedProcess]) -> bool:
        """Return whether processes need not be measured now; otherwise note that they are."""
        now, received = time.monotonic(), sum(row["payloads"] for row in self.streams.values())
        at, before = self._measured
        noted = self._roles(feeds), self.writer.lost
        if (
            now - at < _QUIET_S
            and received - before <= _FEW_PAYLOADS
            and noted == self._noted
            and not any(feed.used for feed in feeds)
        ):
            return True
        self._measured, self._noted = (now, received), noted
        return False

    def close(self) -> None:
        self.writer.close()

    def _roles(self, feeds: list[FeedProcess]) -> dict[int, tuple[str, str]]:
        """Return the role and the stream of each process of this run, by process id."""
        roles = {os.getpid(): ("supervisor", "")}
        if (shared := forkserver.pid()) is not None:
            roles[shared] = ("forkserver", "")
        if self._simulator_pid is not None:
            roles[self._simulator_pid] = ("simulator", "")
        roles.update(dict.fromkeys(self._recorder_pids(), ("recorder", "")))
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
