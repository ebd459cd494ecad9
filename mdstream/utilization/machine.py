"""Utilization of the machine over time, by core and by role."""

from __future__ import annotations

import polars as pl

from mdstream.reading.attach import Attachment
from mdstream.utilization.values import SECOND, Values, shorten

_BINS = 240
"""Most bins of a run; a longer run has wider bins."""


class Clock:
    """Divides the time since the first sample into bins."""

    def __init__(self, run: Attachment) -> None:
        cores = run.frame("telemetry.cores")
        times = cores["ts"].to_physical()
        self._first = int(times.min() or 0)  # type: ignore[arg-type]
        self.seconds = (int(times.max() or 0) - self._first) / SECOND  # type: ignore[arg-type]
        self.bin_s = max(1, -(-int(self.seconds) // _BINS))
        self.bins = max(1, round(self.seconds / self.bin_s))
        self._sampled = set(self.assign_bins(cores)["bin"])

    def assign_bins(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return `frame` with a column `bin`, without the first sample, which covers no time yet.

        A sample describes the second before it, so its bin is that of the middle of that second.
        """
        since = pl.col("ts").to_physical() - self._first
        middle = (since - SECOND // 2) // (self.bin_s * SECOND)
        return frame.filter(since > 0).with_columns(
            middle.cast(pl.Int64).clip(0, self.bins - 1).alias("bin")
        )

    def to_list(self, frame: pl.DataFrame, value: str) -> list[float]:
        """Return one value per bin. A bin without a sample takes the next one: a late sample covers it."""
        known = dict(zip(frame["bin"].to_list(), frame[value].to_list(), strict=True))
        values, source = [], self.bins
        for index in reversed(range(self.bins)):
            source = index if index in self._sampled else source
            values.append(shorten(known.get(source, 0.0)))
        return values[::-1]

    def sum_by_role(self, processes: pl.DataFrame, what: pl.Expr) -> dict[str, list[float]]:
        """Return the sum of a value over the processes of each role, a list over time."""
        sums = (
            self.assign_bins(processes)
            .group_by("role", "bin", "ts")
            .agg(what.sum().alias("value"))
            .group_by("role", "bin")
            .agg(pl.col("value").mean())
        )
        roles = sums["role"].unique().sort().to_list()
        return {r: self.to_list(sums.filter(pl.col("role") == r), "value") for r in roles}


def describe_cores(run: Attachment, clock: Clock) -> Values:
    """Return how busy the cores were: the mean, and each core over time."""
    frame = clock.assign_bins(run.frame("telemetry.cores"))
    by_core = frame.group_by("core", "bin").agg(pl.col("busy_percent").mean())
    cores = frame["core"].unique().sort().to_list()
    means = {name: shorten(frame[f"{name}_percent"].mean()) for name in ("busy", "user", "system")}
    return {
        "count": len(cores),
        **means,
        "idle": shorten(100.0 - means["busy"]),
        "by_core": [
            clock.to_list(by_core.filter(pl.col("core") == core), "busy_percent") for core in cores
        ],
    }


def describe_roles(processes: pl.DataFrame) -> list[Values]:
    """Return one row per role and stream: CPU time since its start, memory, context switches."""
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


def describe_machine(run: Attachment, clock: Clock) -> Values:
    """Return memory in use, and rates per second of received bytes and context switches, over time."""
    took = pl.col("ts").to_physical().diff() / SECOND
    gauges, rates = ("memory_used_bytes", "shm_bytes"), ("net_recv_bytes", "switches")
    frame = clock.assign_bins(run.frame("telemetry.machine").with_columns(pl.col(rates).diff() / took))
    if not frame.height:
        return {}
    means = frame.group_by("bin").agg(pl.col(*gauges, *rates).mean())
    return {name: clock.to_list(means, name) for name in (*gauges, *rates)}
