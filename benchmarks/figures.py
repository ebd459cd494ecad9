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
    before, after = (
        _one(records, "fetch", who, **sizes)["t_total_s"] for who in ("before", "after")
    )
    return (
        f"4 streams × 50 symbols from a service that takes 50 ms: {after:.2f} s, one after another "
        f"{before:.1f} s"
    )


FIGURES: dict[str, Callable[[Sequence[Record]], str]] = {
    "decode": _decode,
    "receive": _receive,
    "fetch": _fetch,
}
