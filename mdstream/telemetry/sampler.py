"""Samples of cores (by psutil) and of processes, once a second, as rows for the telemetry frames."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil


class ProcessSample(NamedTuple):
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


class CoreSample(NamedTuple):
    """One core; the fields are those of `telemetry.cores`."""

    core: int
    busy_percent: float
    user_percent: float
    system_percent: float


class MachineSample(NamedTuple):
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
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_BYTES = 16_384
"""More than a file of a process under /proc has."""


class Sampler:
    """Samples cores and processes. Percentages cover the time since the previous sample.

    A process that was not in the previous sample started after it, or is averaged since its own start.
    """

    # Written by each sample.
    _known: dict[int, tuple[_ProcFiles, float, float]]
    """By process id: its files, and CPU seconds and time of the previous sample."""
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
                usage = process.read()
            except OSError:
                self._known.pop(pid, None)  # it has ended meanwhile
                continue
            spent = usage.user_s + usage.system_s
            self._known[pid] = process, spent, now
            percent = 100 * (spent - before) / max(_LEAST_S, now - at)
            samples.append(ProcessSample(pid, role, stream, percent, *usage))
        self._at = now
        return samples

    def _complete(self, sample: ProcessSample, now: float) -> ProcessSample:
        """Return a last sample with the percentage since the one before."""
        if (known := self._known.get(sample.pid)) is None:
            return sample
        _, before, at = known
        spent = sample.cpu_user_s + sample.cpu_system_s - before
        return sample._replace(cpu_percent=100 * max(0.0, spent) / max(_LEAST_S, now - at))

    def _new(self, pid: int) -> tuple[_ProcFiles, float, float]:
        process = _ProcFiles(pid)
        return process, 0.0, min(process.find_start(), self._at)


class _Usage(NamedTuple):
    """What a process uses, as in `ProcessSample`."""

    user_s: float
    system_s: float
    rss_bytes: int
    threads: int
    voluntary_switches: int
    involuntary_switches: int


class _ProcFiles:
    """The files of one process under /proc, kept open: a quarter of psutil's cost, each second.

    An open file belongs to the process itself, and never to a later one with the same number. Raises
    `OSError` once the process has ended.
    """

    def __init__(self, pid: int) -> None:
        self._files: list[int] = []
        self._close = weakref.finalize(self, _close_all, self._files)
        for name in ("stat", "status"):
            self._files.append(os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC))

    def find_start(self) -> float:
        """Return when the process started, on the monotonic clock."""
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(self._stat()[19]) / _TICKS
        return time.monotonic() - max(0.0, age)

    def read(self) -> _Usage:
        fields = self._stat()
        status = os.pread(self._files[1], _MOST_BYTES, 0)
        switches = status[status.index(b"\nvoluntary_ctxt_switches:") :].split()
        return _Usage(
            int(fields[11]) / _TICKS,
            int(fields[12]) / _TICKS,
            int(fields[21]) * _PAGE,
            int(fields[17]),
            int(switches[1]),
            int(switches[3]),
        )

    def _stat(self) -> list[bytes]:
        """Return the fields after the name of the program, which may have spaces; the first is number 3."""
        return os.pread(self._files[0], _MOST_BYTES, 0).rpartition(b")")[2].split()


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


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
