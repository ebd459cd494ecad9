"""Models of the rates of `handoff`: more cores, and the batch size from which a pool is faster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import Record

APART = "apart"
"""The subject that measures the machine's limit: one independent process per core."""


def group_by_case(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records with rates by case: inline first, then by number of workers."""
    found: list[list[Record]] = []
    for record in records:
        if "messages_per_s" not in record or record["subject"] == APART:
            continue
        if not found or found[-1][0]["params"] != record["params"]:
            found.append([])
        found[-1].append(record)
    return found


def gains(case: Sequence[Record]) -> dict[int, float]:
    """Return the rate by number of workers, as a multiple of inline."""
    return {int(r["workers"]): r["messages_per_s"] / case[0]["messages_per_s"] for r in case[1:]}


def ceiling(records: Sequence[Record], params: Mapping[str, Any]) -> float | None:
    """Return the rate of independent processes as a multiple of one; None if not measured."""
    mine = [r for r in records if r["params"] == params and "messages_per_s" in r]
    apart = next((r for r in mine if r["subject"] == APART), None)
    return apart["messages_per_s"] / mine[0]["messages_per_s"] if apart else None


def parallel_fraction(case: Sequence[Record], cores: int) -> float:
    """Return the parallel share of the work by Amdahl's law, fitted to the rates.

    S = 1 / ((1 - f) + f / p), by least squares of 1 - 1/S over 1 - 1/p. Here p is the number of processes
    (the feed and its workers), but no more than `cores`.
    """
    above = below = 0.0
    for workers, gain in gains(case).items():
        possible = 1 - 1 / min(workers + 1, cores)
        above += (1 - 1 / gain) * possible
        below += possible**2
    return min(1.0, max(0.0, above / below)) if below else 0.0


def fit_model(case: Sequence[Record]) -> Callable[[int], float] | None:
    """Return a model of messages/s by number of workers, from the costs of one worker.

    It assumes one core per process. The feed is one process, and the workers share their work: the slower
    of the two limits the rate.
    """
    one = next((r for r in case if r["workers"] == 1), None)
    if one is None or not one.get("worker_ns"):
        return None
    inline = case[0]["messages_per_s"]

    def rate(workers: int) -> float:
        if workers == 0:
            return float(inline)
        return 1e9 * min(1 / float(one["feed_ns"]), workers / float(one["worker_ns"]))

    return rate


def break_even(cases: Sequence[Sequence[Record]]) -> tuple[float, float] | None:
    """Return the messages per batch between which one worker breaks even, from cases by batch size.

    The first is the largest batch that is slower than inline in every turn (0 if there is none). The second
    is the smallest larger batch that is faster in every turn (infinity if there is none). None if there are
    fewer than two cases.
    """
    sweep = sorted((case[1]["messages_per_batch"], *_edges(case)) for case in cases if 1 in gains(case))
    if len(sweep) < 2:
        return None
    slower = max((size for size, _, most in sweep if most < 1), default=0.0)
    faster = min((size for size, least, _ in sweep if least > 1 and size > slower), default=math.inf)
    return slower, faster


def _edges(case: Sequence[Record]) -> tuple[float, float]:
    """Return the least and greatest ratio of one worker's turns to inline's."""
    (least, most), (low, high) = (r["spread"]["messages_per_s"] for r in case[:2])
    return low / most, high / least
