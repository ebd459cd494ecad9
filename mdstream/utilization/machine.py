"""How busy the machine was, core by core and role by role, over time."""

from __future__ import annotations

import polars as pl

from mdstream.reading.attach import Attachment
from mdstream.utilization.values import SECOND, Values, rounded

_BINS = 240
"""Points of time that are kept; a longer run has wider ones."""


class Clock:
    """Time since the first sample, in bins."""

    def __init__(self, run: Attachment) -> None:
        cores = run.frame("telemetry.cores")
        times = cores["ts"].to_physical()
        self._first = int(times.min() or 0)  # type: ignore[arg-type]
        self.seconds = (int(times.max() or 0) - self._first) / SECOND  # type: ignore[arg-type]
        self.bin_s = max(1, -(-int(self.seconds) // _BINS))
        self.bins = max(1, round(self.seconds / self.bin_s))
        self._sampled = set(self.binned(cores)["bin"])

    def binned(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`frame` with its bin, that of the second before each sample, which is what a sample tells of;
        without the first one, which covers no time yet.
        """
        since = pl.col("ts").to_physical() - self._first
        middle = (since - SECOND // 2) // (self.bin_s * SECOND)
        return frame.filter(since > 0).with_columns(
            middle.cast(pl.Int64).clip(0, self.bins - 1).alias("bin")
        )

    def listed(self, frame: pl.DataFrame, value: str) -> list[float]:
        """A value a bin. A bin that no sample fell in is told by the next: it came late, and covers it."""
        known = dict(zip(frame["bin"].to_list(), frame[value].to_list(), strict=True))
        values, told_by = [], self.bins
        for index in reversed(range(self.bins)):
            told_by = index if index in self._sampled else told_by
            values.append(rounded(known.get(told_by, 0.0)))
        return values[::-1]

    def by_role(self, processes: pl.DataFrame, what: pl.Expr) -> dict[str, list[float]]:
        """The sum of a value over the processes of each role, a list over time."""
        sums = (
            self.binned(processes)
            .group_by("role", "bin", "ts")
            .agg(what.sum().alias("value"))
            .group_by("role", "bin")
            .agg(pl.col("value").mean())
        )
        roles = sums["role"].unique().sort().to_list()
        return {r: self.listed(sums.filter(pl.col("role") == r), "value") for r in roles}


def cores_of(run: Attachment, clock: Clock) -> Values:
    """How busy the cores were: in the mean, and each over time."""
    frame = clock.binned(run.frame("telemetry.cores"))
    by_core = frame.group_by("core", "bin").agg(pl.col("busy_percent").mean())
    cores = frame["core"].unique().sort().to_list()
    means = {name: rounded(frame[f"{name}_percent"].mean()) for name in ("busy", "user", "system")}
    return {
        "count": len(cores),
        **means,
        "idle": rounded(100.0 - means["busy"]),
        "by_core": [clock.listed(by_core.filter(pl.col("core") == core), "busy_percent") for core in cores],
    }


def roles_of(processes: pl.DataFrame) -> list[Values]:
    """A row a role and stream: its CPU time since it began, its memory, its switches."""
    last = processes.group_by("role", "stream", "pid", maintain_order=True).agg(
        pl.col("cpu_user_s", "cpu_system_s", "voluntary_switches", "involuntary_switches").last(),
        pl.col("rss_bytes").max(),
    )
    table = (
        last.group_by("role", "stream", maintain_order=True)
        .agg(pl.len().alias("processes"), pl.all().exclude("pid").sum())
        .with_columns(pl.sum_horizontal("cpu_user_s", "cpu_system_s").alias("cpu_s"))
    )
    whole = table["cpu_s"].sum() or 1.0
    return table.with_columns((pl.col("cpu_s") / whole).alias("share")).to_dicts()


def machine_of(run: Attachment, clock: Clock) -> Values:
    """Levels of memory, and rates a second of what came by network and of switches, over time."""
    took = pl.col("ts").to_physical().diff() / SECOND
    levels, rates = ("memory_used_bytes", "shm_bytes"), ("net_recv_bytes", "switches")
    frame = clock.binned(run.frame("telemetry.machine").with_columns(pl.col(rates).diff() / took))
    if not frame.height:
        return {}
    means = frame.group_by("bin").agg(pl.col(*levels, *rates).mean())
    return {name: clock.listed(means, name) for name in (*levels, *rates)}
