"""Whether a soak stayed flat, and whether every message is accounted for: pure functions of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

WARM_UP_S = 300.0
"""When judging begins at the latest."""
SETTLE_S = 30.0
"""How long after the last stream has reached its retention judging begins."""
LEAST_S = 60.0
"""Below this nothing is judged."""
RISE = 0.02
"""What the line may rise over the time judged, as a share of its mean."""
RISE_FDS = 2.0
"""The same of descriptors, in descriptors."""
ENGINE = ("supervisor", "feed", "worker")

Sample = dict[str, Any]
Floats = npt.NDArray[np.float64]


def of_engine(sample: Sample, what: str) -> int:
    """A figure summed over the engine's processes."""
    return sum(p[what] for p in sample["processes"] if p["role"] in ENGINE)


def received(sample: Sample) -> int:
    """Messages received so far, of all streams."""
    return sum(stream["messages"] for stream in sample["streams"].values())


def shared_memory(sample: Sample) -> int:
    """Bytes of shared memory without the telemetry of the supervisor, which grows to a limit of its own."""
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
"""What a line is laid through."""
JUDGED = ("rss", "fds", "shm")


def begins(samples: Sequence[Sample]) -> float:
    """The second from which on is judged: retention is reached and things have settled, or five minutes."""
    reached = next((s["t_s"] for s in samples if s["retention_reached"]), WARM_UP_S)
    return float(min(reached + SETTLE_S, WARM_UP_S))


def judge(samples: Sequence[Sample], end: dict[str, Any]) -> dict[str, Any]:
    """The verdict on a whole run. `end` has the accounts of each stream after the last message."""
    start = begins(samples) if samples else 0.0
    judged = [s for s in samples if s["t_s"] >= start]
    seconds = judged[-1]["t_s"] - judged[0]["t_s"] if len(judged) > 1 else 0.0
    lines = {}
    if seconds >= LEAST_S:
        times = [s["t_s"] for s in judged]
        lines = {n: line(times, [figure(s) for s in judged]) for n, figure in FIGURES.items()}
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


def line(times: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    """The line with the median slope of all pairs of minutes, by the median of each (Theil and Sen).

    So it does not tilt for the connections that a fetch opens for some seconds of each minute, nor for
    where in a chunk's life the samples begin and end; it does for what grows all the time. Where less
    than five minutes are judged it goes by tens of seconds, which proves little.
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
    """The medians of so many equal stretches."""
    return np.array([np.median(stretch) for stretch in np.array_split(values, count)])


def _is_complete(stream: dict[str, int]) -> bool:
    """All that was received is committed or rejected or in flight, and all that was sent was received,
    unless a connection was lost.
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
    """Medians of the seconds' percentiles, and the worst second."""
    found: dict[str, float | None] = {}
    for name in ("p50", "p99"):
        values = [v for s in judged if (v := s["latency_ms"][name]) is not None]
        found[name] = float(np.median(values)) if values else None
        found[f"{name}_worst"] = float(max(values)) if values else None
    return found


def described(verdict: dict[str, Any]) -> str:
    """The verdict in words."""
    lines = []
    if verdict["lines"]:
        p = verdict["latency_ms"]
        lines.append(
            f"judged: {verdict['judged_s']:,.0f} s after {verdict['warm_up_s']:,.0f} s of warm-up; "
            f"{verdict['wanted_rate']:,.0f} messages/s wanted, {verdict['sent_rate']:,.0f} sent, "
            f"{verdict['rate']:,.0f} received; latency p50 {p['p50']:.1f}, p99 {p['p99']:.1f} ms "
            f"(medians of the seconds; the worst {p['p50_worst']:.1f} and {p['p99_worst']:.1f})"
        )
    else:
        lines.append(f"not judged: fewer than {LEAST_S:.0f} s after the warm-up")
    for name, found in verdict["lines"].items():
        unit, scale = ("", 1.0) if name in ("fds", "threads") else (" MB", 1e6)
        told = f"{name:>15}: mean {found['mean'] / scale:8,.1f}{unit}, {found['per_hour'] / scale:+8.2f}"
        told += f"{unit} an hour, {found['rise'] / scale:+7.2f}{unit} over the time judged"
        if "flat" in found:
            told += f" (may be {found['limit'] / scale:.1f}): {'flat' if found['flat'] else 'NOT FLAT'}"
        lines.append(told)
    for name, stream in verdict["streams"].items():
        lines.append(
            f"{name:>15}: sent {stream['sent']:,}, received {stream['messages']:,} = committed "
            f"{stream['committed']:,} + rejected {stream['rejected']:,} + in flight "
            f"{stream['in_flight']:,}; reconnects {stream['reconnects']}, "
            f"restarts {stream['restarts']}" + ("" if _is_complete(stream) else ": DOES NOT ADD UP")
        )
    lines.append("flat" if verdict["flat"] else "NOT FLAT" if verdict["lines"] else "NOT JUDGED")
    return "\n".join(lines)
