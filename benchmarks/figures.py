"""The figures that README gives, each made from the records it stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import Record


def _one(records: Sequence[Record], question: str, subject: str, **params: Any) -> Record:
    """The record of a case. Raises `LookupError` where it was not measured."""
    for record in records:
        if (record["question"], record["subject"]) == (question, subject) and all(
            record["params"].get(name) == value for name, value in params.items()
        ):
            return record
    raise LookupError(f"no record of {question}, {subject}, {params}")


def _decode(records: Sequence[Record]) -> str:
    def rate(subject: str) -> float:
        found = _one(records, "decode", subject, source="simulator", messages_per_payload=20)
        return float(found["messages_per_s"]) / 1e6

    ours, packed = rate("kernel-json"), rate("kernel-msgpack")
    return (
        f"{ours:.1f} million messages/s from JSON and {packed:.1f} from msgpack on one core, where Polars' "
        f"reader has {rate('polars'):.2f} and alpaca-py {rate('alpaca-py'):.2f}"
    )


def _pages(records: Sequence[Record]) -> str:
    ours, dicts, theirs = (
        float(_one(records, "pages", who)["messages_per_s"]) / 1e6
        for who in ("mdstream", "alpaca-py-raw", "alpaca-py")
    )
    return (
        f"{ours:.1f} million rows/s from gzip'd JSON to columns on one core, where alpaca-py makes "
        f"dictionaries of {dicts:.2f}, and a DataFrame of {theirs:.2f}"
    )


def _receive(records: Sequence[Record]) -> str:
    def cost(subject: str) -> float:
        found = _one(records, "receive", subject, messages_per_payload=1)
        return float(found["ns_per_payload"]) / 1e3

    return (
        f"{cost('session-picows'):.1f} µs of CPU time a payload with `picows`, "
        f"{cost('session-websockets'):.1f} with `websockets`"
    )


def _fetch(records: Sequence[Record]) -> str:
    sizes = {"streams": 4, "symbols": 50, "latency_ms": 50}
    before, after = (_one(records, "fetch", who, **sizes)["t_total_s"] for who in ("before", "after"))
    return (
        f"4 streams × 50 symbols from a service that takes 50 ms: {after:.2f} s, one after another "
        f"{before:.1f} s"
    )


def _engine(records: Sequence[Record]) -> str:
    found = [_one(records, "engine", who) for who in ("one process", "feeds", "feeds + pools")]
    one, feeds, pools = (float(r["messages_per_s"]) / 1e6 for r in found)
    return (
        f"{pools:.1f} million messages/s with feeds and pools, {feeds:.1f} with feeds alone, {one:.1f} "
        "where one process does everything"
    )


def _handoff(records: Sequence[Record]) -> str:
    def gain(**params: Any) -> str:
        mine = [
            r
            for r in records
            if r["question"] == "handoff"
            and "messages_per_s" in r
            and all(r["params"].get(n) == v for n, v in params.items())
        ]
        inline = next(r for r in mine if r["subject"] == "inline")
        mine = [r for r in mine if r.get("measured") == inline.get("measured")]  # on one machine
        best = max((r for r in mine if r.get("workers")), key=lambda r: float(r["messages_per_s"]))
        (low, _), (_, most) = best["spread"]["messages_per_s"], inline["spread"]["messages_per_s"]
        gained = f"{best['messages_per_s'] / inline['messages_per_s']:.2f}×"
        return gained if low > most else f"nothing certain ({gained}, turns overlap)"

    usual = {"codec": "json", "symbols": 30, "slab_kb": 1024, "traffic": "quotes"}
    return (
        f"{gain(**usual, per_payload=20)} of what one process does inline for payloads of 20 messages, "
        f"{gain(what='pages')} for gzip'd pages, {gain(**usual, per_payload=1)} for single messages"
    )


def _cores(records: Sequence[Record]) -> str:
    """On the machine with many cores that was measured (results/elsewhere)."""
    one, feeds, pools = (
        float(_one(records, "engine", who, simulators=3)["messages_per_s"]) / 1e6
        for who in ("one process", "feeds", "feeds + pools")
    )
    return (
        f"{pools:.1f} million messages/s with feeds and pools, {feeds:.1f} with feeds alone, {one:.1f} in "
        "one process"
    )


FIGURES: dict[str, Callable[[Sequence[Record]], str]] = {
    "decode": _decode,
    "pages": _pages,
    "receive": _receive,
    "fetch": _fetch,
    "engine": _engine,
    "cores": _cores,
    "handoff": _handoff,
}
