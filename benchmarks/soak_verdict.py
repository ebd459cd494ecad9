"""The verdict on a soak, from its samples: flat, and complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

WARM_UP_S = 300.0
"""Latest start of the judged time."""
SETTLE_S = 30.0
"""Time from the last stream's retention to the start of the judged time."""
LEAST_S = 60.0
"""Least judged time."""
RISE = 0.02
"""Most rise of a line over the judged time, as a share of its mean."""
RISE_FDS = 2.0
"""The same for descriptors, in descriptors."""
ENGINE = ("supervisor", "feed", "worker")

Sample = dict[str, Any]
Floats = npt.NDArray[np.float64]


def of_engine(sample: Sample, what: str) -> int:
    """Return the sum of a figure over the engine's processes."""
    return sum(p[what] for p in sample["processes"] if p["role"] in ENGINE)


def received(sample: Sample) -> int:
    """Return the messages received so far, of all streams."""
    return sum(stream["messages"] for stream in sample["streams"].values())


def shared_memory(sample: Sample) -> int:
    """Return the bytes of shared memory, without the supervisor's telemetry, which has its own limit."""
    return int(sample["shm"]["total"] - sample["shm"]["supervisor"])


FIGURES: dict[str, Callable[[Sample], float]] = {
    "rss": lambda sample: of_engine(sample, "rss"),
    "fds": lambda sample: of_engine(sample, "fds"),
    "shm": shared_memory,
    "pss": lambda sample: of_engine(sample, "pss"),
    "anonymous": lambda sample: of_engine(sample, "anonymous"),
    "threads": lambda sample: of_engine(sample, "threads"),
    "shm_supervisor": lambda sample: sample["shm"]["supervisor"],
}
"""Figures with a fitted line."""
JUDGED = ("rss", "fds", "shm")


def find_start(samples: Sequence[Sample]) -> float:
    """Return the start of the judged time: `SETTLE_S` after retention is reached, at most `WARM_UP_S`."""
    reached = next((s["t_s"] for s in samples if s["retention_reached"]), WARM_UP_S)
    return float(min(reached + SETTLE_S, WARM_UP_S))


def judge(samples: Sequence[Sample], end: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict on a whole run. `end` has the counts of each stream after the last message."""
    start = find_start(samples) if samples else 0.0
    judged = [s for s in samples if s["t_s"] >= start]
    seconds = judged[-1]["t_s"] - judged[0]["t_s"] if len(judged) > 1 else 0.0
    lines = {}
    if seconds >= LEAST_S:
        times = [s["t_s"] for s in judged]
        lines = {n: fit_line(times, [figure(s) for s in judged]) for n, figure in FIGURES.items()}
        for name in JUDGED:
            limit = RISE_FDS if name == "fds" else RISE * lines[name]["mean"]
            lines[name] |= {"limit": limit, "flat": lines[name]["rise"] <= limit}
    streams = end["streams"].values()
    return {
        "flat": bool(lines) and all(lines[name]["flat"] for name in JUDGED),
        "complete": all(_is_complete(stream) for stream in streams),
        "title": end["title"],
        "wanted_rate": end["wanted_rate"],
        "rate": _rate(judged, "messages", seconds),
        "sent_rate": _rate(judged, "sent", seconds),
        "warm_up_s": start,
        "judged_s": seconds,
        "lines": lines,
        "latency_ms": _latency(judged),
        "streams": end["streams"],
    }


def fit_line(times: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    """Fit a line with the median slope of all pairs of minutes, each by its median (Theil-Sen).

    Short peaks, such as the connections of each fetch or a chunk that fills, do not tilt it; steady growth
    does. For less than five minutes it uses intervals of ten seconds, which proves little.
    """
    seconds = times[-1] - times[0]
    count = max(2, int(seconds / (60 if seconds >= 300 else 10)))
    t, y = (_medians(np.asarray(each, float), count) for each in (times, values))
    later, earlier = np.tril_indices(len(t), -1)
    slope = float(np.median((y[later] - y[earlier]) / (t[later] - t[earlier])))
    return {
        "mean": float(np.mean(values)),
        "first": float(np.median(y - slope * (t - t[0]))),
        "rise": slope * (times[-1] - times[0]),
        "per_hour": slope * 3600,
    }


def _medians(values: Floats, count: int) -> Floats:
    """Return the medians of `count` equal intervals."""
    return np.array([np.median(stretch) for stretch in np.array_split(values, count)])


def _is_complete(stream: dict[str, int]) -> bool:
    """Return whether every received message is accounted for, and every sent message was received.

    If a connection was lost, sent messages may be missing.
    """
    accounted = stream["committed"] + stream["rejected"] + stream["in_flight"]
    arrived = stream["messages"] == stream["sent"] or stream["reconnects"] > 0
    return stream["messages"] == accounted and arrived


def _rate(judged: Sequence[Sample], what: str, seconds: float) -> float | None:
    if not seconds:
        return None
    first, last = (sum(s[what] for s in judged[i]["streams"].values()) for i in (0, -1))
    return float((last - first) / seconds)


def _latency(judged: Sequence[Sample]) -> dict[str, float | None]:
    """Return the medians of the percentiles of each second, and the worst second."""
    found: dict[str, float | None] = {}
    for name in ("p50", "p99"):
        values = [v for s in judged if (v := s["latency_ms"][name]) is not None]
        found[name] = float(np.median(values)) if values else None
        found[f"{name}_worst"] = float(max(values)) if values else None
    return found


def describe(verdict: dict[str, Any]) -> str:
    """Describe the verdict."""
    lines = []
    if verdict["lines"]:
        p = verdict["latency_ms"]
        lines.append(
            f"judged: {verdict['judged_s']:,.0f} s after {verdict['warm_up_s']:,.0f} s of warm-up; "
            f"{verdict['wanted_rate']:,.0f} messages/s wanted, {verdict['sent_rate']:,.0f} sent, "
            f"{verdict['rate']:,.0f} received; latency p50 {p['p50']:.1f}, p99 {p['p99']:.1f} ms "
            f"(medians over seconds; worst {p['p50_worst']:.1f} and {p['p99_worst']:.1f})"
        )
    else:
        lines.append(f"not judged: fewer than {LEAST_S:.0f} s after the warm-up")
    for name, found in verdict["lines"].items():
        unit, scale = ("", 1.0) if name in ("fds", "threads") else (" MB", 1e6)
        text = f"{name:>15}: mean {found['mean'] / scale:8,.1f}{unit}, {found['per_hour'] / scale:+8.2f}"
        text += f"{unit} per hour, {found['rise'] / scale:+7.2f}{unit} over the judged time"
        if "flat" in found:
            text += f" (limit {found['limit'] / scale:.1f}): {'flat' if found['flat'] else 'NOT FLAT'}"
        lines.append(text)
    for name, stream in verdict["streams"].items():
        lines.append(
            f"{name:>15}: sent {stream['sent']:,}, received {stream['messages']:,} = committed "
            f"{stream['committed']:,} + rejected {stream['rejected']:,} + in flight "
            f"{stream['in_flight']:,}; reconnects {stream['reconnects']}, "
            f"restarts {stream['restarts']}" + ("" if _is_complete(stream) else ": DOES NOT ADD UP")
        )
    lines.append("flat" if verdict["flat"] else "NOT FLAT" if verdict["lines"] else "NOT JUDGED")
    return "\n".join(lines)
