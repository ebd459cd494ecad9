"""What psutil tells of cores and processes, once a second, as rows for the telemetry frames."""

from __future__ import annotations

from dataclasses import dataclass

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


class Sampler:
    """Samples cores and processes; percentages cover the time since the previous sample."""

    # The mutable state: psutil's handles by process id, which remember the previous CPU times.

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}
        psutil.cpu_percent(percpu=True)

    def cores(self) -> list[float]:
        """Percent busy of each core."""
        return psutil.cpu_percent(percpu=True)

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
