"""The sentence that says what limited a run."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mdstream.utilization.values import Values

_MUCH = 0.25
_LONG_MS = 20.0
"""A batch that waits as long is held up."""
_FULL = 85.0
"""Percent of busy time that count as used up."""


def describe_limit(found: Values) -> str:
    """Return what limited a run, in one or two sentences."""
    flow, streams = found["flow"], found["streams"]
    if not flow["conclusive"]:
        return "Messages arrived for too short a time to say what limits this run."
    if flow["busy"] >= _FULL:
        return _describe_cores(found)
    if name := _find_full(streams, "workers_busy"):
        return _describe_workers(name, streams[name])
    if name := _find_full(streams, "feed_busy"):
        return _describe_feed(name, streams[name])
    if flow["simulator_busy"] >= _FULL:
        return (
            "The simulator limits this run: its single process was busy "
            f"{flow['simulator_busy']:.0f}% of the time and may have sent fewer messages than requested."
        )
    idle = f"while messages arrived, the cores were idle {100 - flow['busy']:.0f}% of the time"
    if flow["waits_ms"] < _LONG_MS:
        return f"Nothing limits this run: {idle}, and the engine processed messages as they arrived."
    others = " and ".join(_describe_others(flow))
    return (
        f"Nothing limits this run for long: {idle}{others and f'; of the busy time, {others}'}. "
        f"{_describe_waits(flow)}"
    )


def _describe_others(flow: Values) -> Iterator[str]:
    """Yield who else took much of the busy time."""
    for key, name in (("foreign", "other programs"), ("compiling", "the compilation of the decoders")):
        if flow[key] >= _MUCH:
            yield f"{name} used {100 * flow[key]:.0f}%"


def _find_full(streams: Values, key: str) -> str:
    """Return the stream whose percentage `key` is highest if it counts as used up, else an empty text."""
    name = max(streams, key=lambda s: streams[s].get(key, 0.0), default="")
    return name if name and streams[name].get(key, 0.0) >= _FULL else ""


def _describe_cores(found: Values) -> str:
    cores, flow = found["cores"], found["flow"]
    count = "1 core was" if cores["count"] == 1 else f"{cores['count']} cores were"
    full = f"while messages arrived, {count} busy {flow['busy']:.0f}% of the time"
    if others := list(_describe_others(flow)):
        full += f"; of that, {' and '.join(others)}"
        if flow["waits_ms"] < _LONG_MS:
            return f"Nothing limits this run, although its cores were full: {full}. {_describe_waits(flow)}"
        if flow["foreign"] >= _MUCH:
            return f"Other programs limit this run: {full}. {_describe_waits(flow)}"
        return f"The compilation, which is done once, limits this run: {full}. {_describe_waits(flow)}"
    share = flow["simulator_share"]
    other = f"; the simulator used {100 * share:.0f}% of this run's CPU time" if share >= 0.05 else ""
    return f"The cores limit this run: {full}{other}. More cores would help, more workers would not."


def _describe_waits(flow: Values) -> str:
    return f"99% of batches waited at most {math.ceil(flow['waits_ms'])} ms after they were received."


def _describe_workers(name: str, stream: Values) -> str:
    count = "its worker" if stream["workers"] == 1 else f"its {stream['workers']} workers"
    text = (
        f"The workers of {name} limit this run: {count} decoded {stream['workers_busy']:.0f}% of the time"
    )
    gain = _describe_gain(stream)
    return f"{text}. One more{gain}" if gain else f"{text}."


def _describe_feed(name: str, stream: Values) -> str:
    text = (
        f"The feed of {name} limits this run: its single process was busy "
        f"{stream['feed_busy']:.0f}% of the time"
    )
    if stream["workers"]:
        return f"{text}. More workers would not help."
    gain = _describe_gain(stream)
    return f"{text}, without workers. One{gain}" if gain else f"{text}, without workers."


def _describe_gain(stream: Values) -> str:
    """Return what one more worker would bring; empty if that is unknown."""
    if (estimate := stream.get("model")) is None:
        return ""
    return f" would add about {100 * (estimate['one_more_per_s'] / estimate['now_per_s'] - 1):.0f}%."
