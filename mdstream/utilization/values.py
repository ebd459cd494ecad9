"""Values that several queries need: rounding, CPU time of processes, and the share of other programs."""

from __future__ import annotations

from typing import Any

import polars as pl

SECOND = 1_000_000_000

ENDING = ("draining", "stopped", "failed")
"""States of a stream that is ending or has ended."""

Values = dict[str, Any]


def shorten(value: Any) -> float:
    """Return `value` with three decimals, which are enough for people and keep reports small."""
    return round(float(value or 0.0), 3)


def cpu_seconds(processes: pl.DataFrame) -> dict[str, float]:
    """Return the CPU seconds of each role, from the first to the last sample of each process."""
    names = ("cpu_user_s", "cpu_system_s")
    found = (
        processes.group_by("role", "pid")
        .agg(*(pl.col(name).last() - pl.col(name).first() for name in names))
        .group_by("role")
        .agg(pl.sum_horizontal(*names).sum().alias("cpu_s"))
    )
    return dict(found.iter_rows())


def foreign_share(busy_s: float, ours: float) -> float:
    """Return the share of the cores' busy time that other programs used; `ours` is what this run used."""
    return shorten(max(0.0, 1 - ours / busy_s)) if busy_s else 0.0
