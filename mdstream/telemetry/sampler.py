"""Samples of cores and processes by psutil, once a second, as rows for the telemetry frames."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process at one moment; the fields are those of `telemetry.processes`."""

    pid: int
    role: str
    stream: str
    cpu_percent: float
    cpu_user_s: float
    cpu_system_s: float
    rss_bytes: int
    threads: int
    voluntary_switches: int
    involuntary_switches: int


@dataclass(frozen=True, slots=True)
class CoreSample:
    """One core; the fields are those of `telemetry.cores`."""

    core: int
    busy_percent: float
    user_percent: float
    system_percent: float


@dataclass(frozen=True, slots=True)
class MachineSample:
    """The machine; the fields are those of `telemetry.machine`."""

    memory_used_bytes: int
    shm_bytes: int
    net_sent_bytes: int
    net_recv_bytes: int
    switches: int


_LEAST_S = 0.01
"""Least time between samples, so that none divides by zero."""
_FOLDER_S = 5.0
"""How often the files of a run are measured: looking at each costs more than the rest of a sample."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Sampler:
    """Samples cores and processes. Percentages cover the time since the previous sample.

    A process that was not in the previous sample started after it, or is averaged since its own start.
    """

    # Written by each sample.
    _known: dict[int, tuple[psutil.Process, float, float]]
    """By process id: psutil's handle, and CPU seconds and time of the previous sample."""
    _at: float
    """The time of the previous sample of processes."""
    _times: list[Any]
    """The times of all cores in the previous sample."""
    _folder: tuple[float, int]
    """When the files of the run were measured, and their bytes."""

    def __init__(self) -> None:
        self._known = {}
        self._at = time.monotonic()
        self._cores = os.sched_getaffinity(0)
        self._times = psutil.cpu_times(percpu=True)
        self._folder = float("-inf"), 0

    def sample_cores(self) -> list[CoreSample]:
        """Return a sample of each core that this run may use."""
        # psutil's own percentages count less than a second as a whole one.
        before, self._times = self._times, psutil.cpu_times(percpu=True)
        return [
            _core(core, then, now)
            for core, (then, now) in enumerate(zip(before, self._times, strict=True))
            if core in self._cores
        ]

    def sample_machine(self, run: Path) -> MachineSample:
        """Return a sample of the machine, and of the shared memory that the run in folder `run` uses.

        That memory is measured every `_FOLDER_S`.
        """
        if (now := time.monotonic()) - self._folder[0] >= _FOLDER_S:
            self._folder = now, _folder_bytes(run)
        memory, net = psutil.virtual_memory(), psutil.net_io_counters()
        switches = psutil.cpu_stats().ctx_switches
        return MachineSample(
            memory.total - memory.available, self._folder[1], net.bytes_sent, net.bytes_recv, switches
        )

    def sample_processes(
        self, roles: dict[int, tuple[str, str]], ended: Sequence[ProcessSample] = ()
    ) -> list[ProcessSample]:
        """Return a sample of each running process of `roles` (process id → role, stream).

        Processes that have `ended` took a last sample of themselves; it is returned with its percentage.
        """
        now = time.monotonic()
        samples = [self._complete(sample, now) for sample in ended]
        gone = {sample.pid for sample in ended}
        self._known = {pid: known for pid, known in self._known.items() if pid in roles}
        for pid, (role, stream) in roles.items():
            if pid in gone:
                continue
            try:
                process, before, at = self._known.get(pid) or self._new(pid)
                with process.oneshot():
                    times, switches = process.cpu_times(), process.num_ctx_switches()
                    spent = times.user + times.system
                    self._known[pid] = process, spent, now
                    samples.append(
                        ProcessSample(
                            pid,
                            role,
                            stream,
                            100 * (spent - before) / max(_LEAST_S, now - at),
                            times.user,
                            times.system,
                            process.memory_info().rss,
                            process.num_threads(),
                            switches.voluntary,
                            switches.involuntary,
                        )
                    )
            except psutil.Error:
                self._known.pop(pid, None)  # it has ended meanwhile
        self._at = now
        return samples

    def _complete(self, sample: ProcessSample, now: float) -> ProcessSample:
        """Return a last sample with the percentage since the one before."""
        if (known := self._known.get(sample.pid)) is None:
            return sample
        _, before, at = known
        spent = sample.cpu_user_s + sample.cpu_system_s - before
        return replace(sample, cpu_percent=100 * max(0.0, spent) / max(_LEAST_S, now - at))

    def _new(self, pid: int) -> tuple[psutil.Process, float, float]:
        process = psutil.Process(pid)
        return process, 0.0, min(_start_time(pid), self._at)


def _start_time(pid: int) -> float:
    """Return when a process started, on the monotonic clock; now if it has ended."""
    now = time.monotonic()
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return now
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS
    return now - max(0.0, age)


def _folder_bytes(folder: Path) -> int:
    """Return the bytes that the files of a folder use, without files that are removed meanwhile."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(where, name)).st_blocks * 512
    return total


def _core(core: int, then: Any, now: Any) -> CoreSample:
    """Return how a core spent the time between two results of psutil's `cpu_times`."""
    spent = {name: max(0.0, getattr(now, name) - getattr(then, name)) for name in now._fields}
    # The time of a guest is also in the user's.
    whole = sum(s for name, s in spent.items() if not name.startswith("guest"))
    if not whole:
        return CoreSample(core, 0.0, 0.0, 0.0)
    idle = spent["idle"] + spent.get("iowait", 0.0)
    user, system = spent["user"] + spent.get("nice", 0.0), spent["system"]
    return CoreSample(core, 100 * (whole - idle) / whole, 100 * user / whole, 100 * system / whole)
