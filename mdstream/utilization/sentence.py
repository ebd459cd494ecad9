"""What held a run back, in a sentence."""

from __future__ import annotations

import math

from mdstream.utilization.values import Values

_MUCH = 0.25
_LONG_MS = 20.0
"""From which on a batch's wait is one."""
_FULL = 85.0
"""Percent from which on something counts as used up."""


def limit(found: Values) -> str:
    """What held this run back, in a sentence."""
    flow, streams = found["flow"], found["streams"]
    if not flow["told"]:
        return "Messages came for too short a time to tell what limits this run."
    if flow["busy"] >= _FULL:
        return _by_cores(found)
    busiest = max(streams, key=lambda s: streams[s].get("workers_busy", 0.0), default="")
    if busiest and streams[busiest].get("workers") and streams[busiest].get("workers_busy", 0.0) >= _FULL:
        return _by_workers(busiest, streams[busiest])
    busiest = max(streams, key=lambda s: streams[s].get("feed_busy", 0.0), default="")
    if busiest and streams[busiest].get("feed_busy", 0.0) >= _FULL:
        return (
            f"The feed of {busiest} limits this run: its one process was busy "
            f"{streams[busiest]['feed_busy']:.0f}% of the time, so more workers would bring nothing."
        )
    if flow["simulator_busy"] >= _FULL:
        return (
            "The simulator limits this run: its one process was busy "
            f"{flow['simulator_busy']:.0f}% of the time and may have sent less than it was asked for."
        )
    idle = f"while messages came the cores were idle {100 - flow['busy']:.0f}% of the time"
    if (waits_ms := flow["waits_ms"]) >= _LONG_MS:
        others = (
            f"; {100 * flow['foreign']:.0f}% of what was busy was not this run's"
            if flow["foreign"] >= _MUCH
            else ""
        )
        return (
            f"Nothing limits this run for long: {idle}{others}. Yet of 100 batches one waited "
            f"{waits_ms:.0f} ms or more once it was received."
        )
    return f"Nothing here limits this run: {idle}, and the engine took what came as it came."


def _by_cores(found: Values) -> str:
    cores, flow = found["cores"], found["flow"]
    count = "1 core was" if cores["count"] == 1 else f"{cores['count']} cores were"
    share = flow["simulator_share"]
    other = (
        f", {100 * share:.0f}% of what this run had of them being the simulator's" if share >= 0.05 else ""
    )
    if flow["foreign"] >= _MUCH:
        full = (
            f"while messages came {count} busy {flow['busy']:.0f}% of the time, "
            f"{100 * flow['foreign']:.0f}% of that with what is not this run's"
        )
        waits_ms = flow["waits_ms"]
        if waits_ms < _LONG_MS:
            return (
                f"Nothing held this run up, though its cores were full: {full}. 99 of 100 batches waited "
                f"less than {max(1, math.ceil(waits_ms))} ms once they were received."
            )
        return (
            f"Other programs limit this run: {full}, and of 100 batches one waited {waits_ms:.0f} ms or "
            "more once it was received."
        )
    return (
        f"The cores limit this run: while messages came {count} busy {flow['busy']:.0f}% of the time"
        f"{other}; more workers would bring nothing, more cores would."
    )


def _by_workers(name: str, stream: Values) -> str:
    text = (
        f"The workers of {name} limit this run: its {stream['workers']} decoded "
        f"{stream['workers_busy']:.0f}% of the time"
    )
    if (estimate := stream.get("model")) is None:
        return text + "."
    gain = 100 * (estimate["one_more_per_s"] / estimate["now_per_s"] - 1)
    return f"{text}; one more would bring some {gain:.0f}%."
