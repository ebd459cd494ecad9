"""The report of a run as text for a terminal or a log."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report: a row a stream, then what a person should know besides."""
    console.print(_draw(report))


def _draw(report: dict[str, Any]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("stream")
    table.add_column("state")
    for heading in (
        "symbols ok/failed", "messages", "committed", "rejected", "in flight", "T_stream s",
        "p50 ms", "p99 ms", "reconnects", "restarts",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for name, stream in report["streams"].items():
        latency = stream["latency_ms"]
        table.add_row(
            name,
            Text(stream["state"], style="bold red" if stream["state"] == "failed" else "green"),
            f"{stream['symbols_ok']}/{len(stream['symbols_failed'])}",
            f"{stream['messages']:,}",
            f"{stream['committed']:,}",
            f"{stream['rejected']:,}",
            f"{stream['in_flight']:,}",
            _number(stream["fetch"]["t_stream_s"]),
            _number(latency["p50"]),
            _number(latency["p99"]),
            str(stream["reconnects"]),
            str(stream["restarts"]),
        )
    return Group(Text(_headline(report), style="bold"), table, *_remarks(report))


def _headline(report: dict[str, Any]) -> str:
    cores = report["cores"]
    parts = [f"run {report['run']}: {report['duration_s']:.1f} s"]
    if report["t_total_s"] is not None:
        parts.append(f"T_total of the first fetch {report['t_total_s']:.3f} s")
    if cores["busy_mean"] is not None:
        parts.append(f"{cores['busy_mean']:.0f}% of {cores['count']} cores busy")
    return ", ".join(parts)


def _remarks(report: dict[str, Any]) -> list[Text]:
    remarks = []
    for name, stream in report["streams"].items():
        if stream["reason"]:
            remarks.append(Text(f"{name} failed: {stream['reason']}", style="bold red"))
        failed = list(stream["symbols_failed"].items())
        for symbol, reason in failed[:5]:
            remarks.append(Text(f"{name} {symbol}: {reason}", style="yellow"))
        if len(failed) > 5:
            remarks.append(Text(f"{name}: {len(failed) - 5} more symbols failed", style="yellow"))
        if stream["rejects_file"]:
            remarks.append(Text(f"{name}: rejected payloads are kept in {stream['rejects_file']}"))
    return remarks


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:,.0f}"
