"""What the queries share: numbers for people, and the CPU time of processes."""

from __future__ import annotations

from typing import Any

import polars as pl

SECOND = 1_000_000_000

ENDING = ("draining", "stopped", "failed")
"""States of a stream that its run, or it, has come to the end of."""

Values = dict[str, Any]


def rounded(value: Any) -> float:
    """Three decimals are enough for people, and keep reports small."""
    return round(float(value or 0.0), 3)


def spent(processes: pl.DataFrame) -> dict[str, float]:
    """CPU seconds of each role from the first to the last sample of each of its processes."""
    names = ("cpu_user_s", "cpu_system_s")
    found = (
        processes.group_by("role", "pid")
        .agg(*(pl.col(name).last() - pl.col(name).first() for name in names))
        .group_by("role")
        .agg(pl.sum_horizontal(*names).sum().alias("cpu_s"))
    )
    return dict(found.iter_rows())


def foreign(busy: float, cores: int, seconds: float, ours: float) -> float:
    """The share of the cores' busy time that no process of this run had; `ours` is what they had."""
    busy_s = busy / 100 * cores * seconds
    return rounded(max(0.0, 1 - ours / busy_s)) if busy_s else 0.0
