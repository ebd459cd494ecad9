"""What psutil tells of cores and processes, once a second, as rows for the telemetry frames."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

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


class Sampler:
    """Samples cores and processes; percentages cover the time since the previous sample."""

    # The mutable state: psutil's handles by process id, which remember the previous CPU times.

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}
        psutil.cpu_times_percent(percpu=True)

    def cores(self) -> list[CoreSample]:
        """A sample of each core."""
        return [
            CoreSample(
                core,
                max(0.0, 100.0 - times.idle - getattr(times, "iowait", 0.0)),
                times.user + getattr(times, "nice", 0.0),
                times.system,
            )
            for core, times in enumerate(psutil.cpu_times_percent(percpu=True))
        ]

    def machine(self, run: Path) -> MachineSample:
        """A sample of the machine, and of what the run in folder `run` takes of shared memory."""
        memory, net = psutil.virtual_memory(), psutil.net_io_counters()
        switches = psutil.cpu_stats().ctx_switches
        return MachineSample(
            memory.total - memory.available, _taken(run), net.bytes_sent, net.bytes_recv, switches
        )

    def processes(self, roles: dict[int, tuple[str, str]]) -> list[ProcessSample]:
        """A sample of each process of `roles` (process id → role, stream) that still lives."""
        self._known = {pid: p for pid, p in self._known.items() if pid in roles}
        samples = []
        for pid, (role, stream) in roles.items():
            try:
                process = self._known.get(pid)
                if process is None:
                    process = self._known[pid] = psutil.Process(pid)
                    process.cpu_percent()
                with process.oneshot():
                    times, switches = process.cpu_times(), process.num_ctx_switches()
                    samples.append(
                        ProcessSample(
                            pid,
                            role,
                            stream,
                            process.cpu_percent(),
                            times.user,
                            times.system,
                            process.memory_info().rss,
                            process.num_threads(),
                            switches.voluntary,
                            switches.involuntary,
                        )
                    )
            except psutil.Error:
                self._known.pop(pid, None)  # it ended in between
        return samples


def _taken(folder: Path) -> int:
    """Bytes that the files of a folder take; those that go meanwhile are not counted."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(where, name)).st_blocks * 512
    return total
