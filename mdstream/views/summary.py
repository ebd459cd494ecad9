"""The report of a run as text, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mdstream.telemetry.metrics import find_losses
from mdstream.views.table import Field, fit

_REASONS_SHOWN = 5
_SYMBOLS_SHOWN = 4


def show(report: dict[str, Any], console: Console, details: Sequence[RenderableType] = ()) -> None:
    """Print the report: one row per stream, `details`, and at the end what matters most.

    That is what was lost or failed, and then one line about the whole run.
    """
    console.print(_table(report, console))
    console.print(*details, *_remarks(report), _headline(report), sep="\n", highlight=False)


def _table(report: dict[str, Any], console: Console) -> Table:
    streams = list(report["streams"].values())

    def counts(name: str) -> list[RenderableType]:
        return [f"{stream[name]:,}" for stream in streams]

    def latencies(name: str) -> list[RenderableType]:
        return [_number(stream["latency"][name]) for stream in streams]

    symbols = [_symbols(s["symbols_ok"], len(s["symbols_failed"])) for s in streams]
    fields = [
        Field("stream", list(report["streams"]), justify="left"),
        Field("state", [_state(stream["state"]) for stream in streams], justify="left"),
        Field("symbols", symbols, 1),
        Field("messages", counts("messages")),
        Field("committed", counts("committed")),
        Field("rejected", counts("rejected")),
        Field("in flight", counts("in_flight")),
        Field("fetch s", [_number(s["fetch"]["t_stream_s"]) for s in streams], 4),
        Field("latency\np50 ms", latencies("p50_ms"), 3),
        Field("latency\np99 ms", latencies("p99_ms"), 2),
        Field("reconnects", counts("reconnects"), 5),
        Field("restarts", counts("restarts"), 6),
    ]
    return fit(fields, console.width, console)


def _symbols(served: int, failed: int) -> str:
    return f"{served:,}, {failed:,} failed" if failed else f"{served:,}"


def _state(state: str) -> Text:
    return Text(state, style="bold red" if state == "failed" else "green")


def _headline(report: dict[str, Any]) -> Text:
    """Return one line about the whole run."""
    cores, streams = report["cores"], report["streams"]
    total, committed = (sum(s[name] for s in streams.values()) for name in ("messages", "committed"))
    failed = [name for name, stream in streams.items() if stream["state"] == "failed"]
    parts = [
        f"run {report['run']}: {report['duration_s']:.1f} s",
        f"{total:,} messages, {'all' if committed == total else f'{committed:,}'} committed",
    ]
    if failed:
        parts.insert(1, f"{', '.join(failed)} failed")
    if report["t_total_s"] is not None:
        parts.append(f"first fetch of all streams in {report['t_total_s']:.3f} s")
    if cores["busy_mean"] is not None:
        count = "1 core" if cores["count"] == 1 else f"{cores['count']} cores"
        parts.append(f"{count} busy {cores['busy_mean']:.0f}%")
    whole = not failed and committed == total
    return Text("; ".join(parts), style="bold" if whole else "bold red" if failed else "bold yellow")


def _remarks(report: dict[str, Any]) -> list[Text]:
    remarks = []
    if report.get("removed"):
        remarks.append(Text(report["removed"], style="bold red"))
    for name, stream in report["streams"].items():
        if stream["reason"]:
            remarks.append(Text(f"{name} failed: {stream['reason']}", style="bold red"))
        by_reason: dict[str, list[str]] = {}
        for symbol, reason in stream["symbols_failed"].items():
            by_reason.setdefault(reason, []).append(symbol)
        by_reason.pop(stream["reason"] or "", None)  # the line above says it
        for reason, symbols in list(by_reason.items())[:_REASONS_SHOWN]:
            remarks.append(Text(f"{name} {_list_some(symbols)}: {reason}", style="yellow"))
        if len(by_reason) > _REASONS_SHOWN:
            more = sum(map(len, list(by_reason.values())[_REASONS_SHOWN:]))
            remarks.append(Text(f"{name}: {more} more symbols are not served", style="yellow"))
        if stream["bars"].get("compared"):
            remarks.append(_bars(name, stream["bars"]))
        remarks += [Text(f"{name}: {loss}", style="yellow") for loss in find_losses(stream)]
        if stream["rejects_file"]:
            remarks.append(Text(f"{name}: rejected payloads are kept in {stream['rejects_file']}"))
    remarks += [Text(loss, style="yellow") for loss in find_losses(report)]
    if recorded := report.get("recorded"):
        remarks.append(_recording_text(recorded))
    return remarks


def _recording_text(recorded: dict[str, Any]) -> Text:
    """Return what came into the store, as far as it is known."""
    if recorded["rows"] is None:
        text = f"recorded until then: see {recorded['store']}/live; what was not yet recorded is lost"
        return Text(text, style="bold red")
    frames = sum(rows > 0 for rows in recorded["frames"].values())
    text = f"recorded: {recorded['rows']:,} rows of {frames} frames in {recorded['store']}/live"
    if recorded["missed"]:
        text += f"; {recorded['missed']:,} rows were dropped before they could be recorded"
    if recorded["unstorable"]:
        text += f"; {recorded['unstorable']:,} rows that a table refuses are kept in rejects"
    if not recorded["whole"]:
        why = f" ({recorded['trouble']})" if recorded["trouble"] else ""
        text += f"; recording is incomplete{why}: mdstream record finishes it"
    whole = recorded["whole"] and not recorded["missed"] and not recorded["unstorable"]
    return Text(text, style="" if whole else "yellow")


def _bars(stream: str, bars: dict[str, Any]) -> Text:
    """Return how the minute bars built here compare with the service's."""
    text = f"{stream}: {bars['equal']:,} of {bars['compared']:,} minute bars equal the service's"
    if not bars["differing"]:
        return Text(text)
    names = ", ".join(f"{name} {count}" for name, count in bars["differing"].items())
    return Text(f"{text}; others differ in {names}", style="yellow")


def _list_some(symbols: list[str]) -> str:
    shown = ", ".join(symbols[:_SYMBOLS_SHOWN])
    more = len(symbols) - _SYMBOLS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:,.0f}"
