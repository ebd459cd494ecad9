"""The live view that a terminal shows while an engine runs. It reads the frames like any other program."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from mdstream.reading.attach import Attachment
from mdstream.views import queries
from mdstream.views.table import Field, fit

_EVENTS_SHOWN = 6
_HINT = "Ctrl-C: drain and stop · to read the data: mdstream tail, or mdstream.attach() in Python"

_STYLES = {
    "streaming": "green",
    "connecting": "yellow",
    "starting": "yellow",
    "restarting": "bold yellow",
    "draining": "cyan",
    "stopped": "dim",
    "failed": "bold red",
}

_SEVERITY_STYLES = {"warning": "yellow", "error": "bold red"}


class LiveView:
    """Draws a run at each call of `show`. Use it as a context manager while the run lasts."""

    def __init__(self, console: Console, headline: str) -> None:
        self._headline = headline
        self._live = Live(Text("starting ..."), console=console, auto_refresh=False)
        self._attachment: Attachment | None = None

    def __enter__(self) -> LiveView:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, run: Path) -> None:
        """Draw the current state of the frames in run folder `run`."""
        if self._attachment is None:
            self._attachment = Attachment(run)
        view = draw(self._attachment, self._headline, self._live.console)
        # The terminal shows ^C in the empty line; without the line, it would push the view away.
        self._live.update(Group(view, ""), refresh=True)


def draw(run: Attachment, headline: str, console: Console) -> RenderableType:
    """Return the whole view as one renderable, as wide as `console`."""
    streams = queries.streams_now(run)
    table = fit(_fields(streams), console.width - 4, console, expand=True)
    return Panel(
        Group(table, "", _cores_line(run), _pool_line(run, streams), _event_lines(run)),
        title=f"mdstream {run.run} · {queries.elapsed_s(run):.0f} s · {headline}",
        subtitle=_HINT,
        box=box.ROUNDED,
    )


def _fields(rows: list[dict[str, Any]]) -> list[Field]:
    states = [Text(row["state"], style=_STYLES.get(row["state"], "")) for row in rows]
    pools = [f"{row['pool_busy']}/{row['pool_size']} +{row['pool_queue']}" for row in rows]
    return [
        Field("stream", [row["stream"] for row in rows], justify="left"),
        Field("state", states, justify="left"),
        Field("pid", [str(row["pid"] or "") for row in rows], 2),
        Field("symbols\nok/failed", [_symbols(row) for row in rows]),
        Field("msg/s", [_rate(row["messages_per_s"]) for row in rows]),
        Field("messages", [f"{row['messages']:,}" for row in rows], 4),
        Field("latency\np50 ms", [_number(row["latency_p50_ms"]) for row in rows], 3),
        Field("latency\np99 ms", [_number(row["latency_p99_ms"]) for row in rows]),
        Field("rows", [f"{row['rows']:,}" for row in rows], 1),
        Field("workers\nbusy/all +queue", pools, 5),
    ]


def _symbols(row: dict[str, Any]) -> Text:
    failed = row["symbols_failed"]
    return Text(f"{row['symbols_ok']}").append(f"/{failed}", style="red" if failed else "dim")


def _rate(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and math.isfinite(value) else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _cores_line(run: Attachment) -> RenderableType:
    cores = queries.cores_now(run)
    if not cores:
        return Text("")
    line = Text(f" cores {sum(cores) / 100:.1f} of {len(cores)} busy  ", style="bold")
    for value in cores:
        line.append(" ▁▂▃▄▅▆▇█"[min(8, round(value / 12.5))], style="cyan")
    return line


def _pool_line(run: Attachment, rows: list[dict[str, Any]]) -> RenderableType:
    """Return one line for all workers; the table shows those of each stream if there is room."""
    busy, size, queue = (sum(row[f"pool_{part}"] for row in rows) for part in ("busy", "size", "queue"))
    line = Text(f" workers {busy} of {size} busy, {queue} batches queued", style="bold")
    if (per_batch := queries.messages_per_batch(run)) is not None:
        line.append(f"   {per_batch:,.1f} messages per batch", style="dim")
    return line


def _event_lines(run: Attachment) -> RenderableType:
    lines = Text()
    for event in queries.recent_events(run, _EVENTS_SHOWN):
        lines.append(f"\n {event['ts'].astimezone():%H:%M:%S} ", style="dim")
        lines.append(f"{event['stream']:<8} ", style="bold")
        lines.append(event["text"], style=_SEVERITY_STYLES.get(event["severity"], ""))
    lines.no_wrap = True
    lines.overflow = "ellipsis"
    return lines
