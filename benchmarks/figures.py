"""The figures in README and docs, each computed from records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.harness import Record


class Figure(NamedTuple):
    """A figure: its title, and the function that returns our result and the compared one."""

    title: str
    answer: Callable[[Sequence[Record]], tuple[str, str]]


def render_table(records: Sequence[Record]) -> str:
    """Return README's table. Raises `LookupError` if a record is missing."""
    rows = [(figure.title, *figure.answer(records)) for figure in TABLE.values()]
    lines = [
        "| | mdstream | compared with |",
        "|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def render_figure(name: str, records: Sequence[Record]) -> str:
    """Return a figure as part of a sentence. Raises `LookupError` if a record is missing."""
    return ", ".join({**TABLE, **INLINE}[name].answer(records))


def _find_record(records: Sequence[Record], question: str, subject: str, **params: Any) -> Record:
    """Return the record of a case. Raises `LookupError` if there is none."""
    for record in records:
        if (record["question"], record["subject"]) == (question, subject) and all(
            record["params"].get(name) == value for name, value in params.items()
        ):
            return record
    raise LookupError(f"no record of {question}, {subject}, {params}")


def _decode(records: Sequence[Record]) -> tuple[str, str]:
    def rate(subject: str) -> float:
        found = _find_record(records, "decode", subject, source="simulator", messages_per_payload=20)
        return float(found["messages_per_s"]) / 1e6

    return (
        f"{rate('kernel-json'):.1f} (JSON) and {rate('kernel-msgpack'):.1f} (msgpack) million messages/s",
        f"Polars' reader {rate('polars'):.2f}, alpaca-py {rate('alpaca-py'):.2f}",
    )


def _pages(records: Sequence[Record]) -> tuple[str, str]:
    ours, dicts, frames = (
        float(_find_record(records, "pages", subject)["messages_per_s"]) / 1e6
        for subject in ("mdstream", "alpaca-py-raw", "alpaca-py")
    )
    return (
        f"{ours:.1f} million rows/s",
        f"alpaca-py {dicts:.2f} to dictionaries, {frames:.2f} to a DataFrame",
    )


def _receive(records: Sequence[Record]) -> tuple[str, str]:
    def cost(subject: str) -> float:
        found = _find_record(records, "receive", subject, messages_per_payload=1)
        return float(found["ns_per_payload"]) / 1e3

    return (
        f"{cost('session-picows'):.1f} µs of CPU time per payload with `picows`",
        f"{cost('session-websockets'):.1f} µs with `websockets`",
    )


def _fetch(records: Sequence[Record]) -> tuple[str, str]:
    sizes = {"streams": 4, "symbols": 50, "latency_ms": 50}
    before, after = (
        _find_record(records, "fetch", subject, **sizes)["t_total_s"] for subject in ("before", "after")
    )
    return f"{after:.2f} s", f"one after another {before:.1f} s"


def _shape(records: Sequence[Record], **params: Any) -> tuple[str, str]:
    found = [
        _find_record(records, "engine", name, **params)
        for name in ("one process", "feeds", "feeds + pools")
    ]
    one, feeds, pools = (float(r["messages_per_s"]) / 1e6 for r in found)
    return f"{pools:.1f} million messages/s", f"feeds without pools {feeds:.1f}, one process {one:.1f}"


def _engine(records: Sequence[Record]) -> tuple[str, str]:
    return _shape(records)


def _cores(records: Sequence[Record]) -> tuple[str, str]:
    """Return the figure of the machine with 16 cores (results/elsewhere)."""
    return _shape(records, simulators=3)


def _handoff(records: Sequence[Record]) -> tuple[str, str]:
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
        return gained if low > most else f"not certain ({gained}, turns overlap)"

    usual = {"codec": "json", "symbols": 30, "slab_kb": 1024, "traffic": "quotes"}
    return (
        f"{gain(**usual, per_payload=20)} with 20 messages per payload, {gain(what='pages')} for pages",
        f"single messages: {gain(**usual, per_payload=1)}",
    )


TABLE = {
    "fetch": Figure("Fetch 4 streams × 50 symbols, 50 ms per answer", _fetch),
    "decode": Figure("Decode, one core", _decode),
    "pages": Figure("Gzip'd pages of history to columns, one core", _pages),
    "engine": Figure("Four streams at full speed, socket to frames, 2 cores", _engine),
    "cores": Figure("The same on 16 cores", _cores),
    "handoff": Figure("Gain of a pool over one process, 2 cores", _handoff),
}
"""README's table."""

INLINE = {"receive": Figure("Receive a payload", _receive)}
"""Figures within sentences."""
