"""The live view that a terminal shows while an engine runs. It reads the frames like any other program."""

from __future__ import annotations

import math
import time
from collections import deque
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from mdstream.reading.attach import Attachment
from mdstream.views import market, queries
from mdstream.views.table import Field, fit

_HINT = "Ctrl-C: drain and stop"
_HOW_TO_READ = (
    "read it: mdstream tail FRAME, or in Python: mdstream.attach().frame(FRAME); FRAME as {frame}"
)
_LEGEND = (
    "latency: from receipt to frame · rate over time: messages/s in the last minute · "
    "spread: 100 bp are 1% of the price · age: of the last trade or quote"
)
_MOST_EVENTS = 6
_LEAST_EVENTS = 2
_MOST_NOTES = 200
"""Lines that are kept while the view hides the terminal; further ones are counted."""
_FIXED_LINES = 10
"""Lines that every view has: borders, headings, blanks, and the line about the machine."""
_ROOMY = 22
"""Lines of a terminal that has room for explanations."""
_SPAN_S = 60
"""What the rate over time covers."""
_LEVELS = "▁▂▃▄▅▆▇█"

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
    """Draws a run at each call of `show`, on a screen of its own: resizing leaves nothing behind.

    Use it as a context manager while the run lasts. Lines passed to `note` appear once the view has ended.
    """

    # Written by `note` and `report`.
    _notes: deque[str]
    _notes_lost: int

    def __init__(self, console: Console, headline: str) -> None:
        self._headline = headline
        self._live = Live(Text(""), console=console, auto_refresh=False, screen=True)
        self._attachment: Attachment | None = None
        self._started = time.monotonic()
        self._notes, self._notes_lost = deque(), 0

    def __enter__(self) -> LiveView:
        self._live.start()
        self.report("starting")
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        console = self._live.console
        if self._notes_lost:
            console.print(f"{self._notes_lost} more lines were lost", style="yellow", highlight=False)
        for line in self._notes:
            console.print(line, style="yellow", markup=False, highlight=False)

    def note(self, line: str) -> None:
        """Keep a line that needs attention, to print it once the view has ended."""
        if len(self._notes) == _MOST_NOTES:
            self._notes.popleft()
            self._notes_lost += 1
        self._notes.append(line)

    def report(self, doing: str) -> None:
        """Draw what the engine does before it has something to show."""
        text = Text(f"mdstream · {self._headline}\n\n", style="bold")
        text.append(f"{doing} ... ({time.monotonic() - self._started:.0f} s)\n\n", style="")
        text.append("Ctrl-C: stop", style="dim")
        self._live.update(text, refresh=True)

    def show(self, run: Path, doing: str = "") -> None:
        """Draw the current state of the frames in run folder `run`, and what else the engine does."""
        if self._attachment is None:
            self._attachment = Attachment(run)
        view = draw(self._attachment, self._headline, self._live.console, list(self._notes), doing)
        self._live.update(view, refresh=True)


def draw(
    run: Attachment, headline: str, console: Console, notes: list[str] | None = None, doing: str = ""
) -> RenderableType:
    """Return the whole view as one renderable that fills `console`: streams, market, machine, events.

    `doing` is what the engine does beside the streams.
    """
    width, height = console.size
    streams = queries.streams_now(run)
    inner = width - 4
    table = fit(_fields(streams, queries.rates_over_time(run, _SPAN_S), inner), inner, console, expand=True)
    explained = (_LEGEND, _how_to_read(run)) if height >= _ROOMY else ()
    foot = [Text(line, style="dim") for line in explained]
    used = _FIXED_LINES + len(streams) + bool(doing) + sum(len(line.wrap(console, inner)) for line in foot)
    left = max(0, height - used)
    events = max(_LEAST_EVENTS, min(_MOST_EVENTS, left // 3))
    prices = market.read_prices(run, max(0, left - events))
    parts: list[RenderableType] = [table, ""]
    if prices:
        parts.append(fit(market.fields(prices), inner, console, expand=True))
    if doing:
        parts.append(Text(f" {doing}", style="yellow", no_wrap=True, overflow="ellipsis"))
    parts += [_machine_line(run, streams), _event_lines(run, events, notes or []), "", *foot]
    return Panel(
        Group(*parts),
        title=f"mdstream {run.run} · {queries.elapsed_s(run):.0f} s · {headline}",
        subtitle=_HINT,
        box=box.ROUNDED,
    )


def _how_to_read(run: Attachment) -> str:
    frame = max(
        (name for name in run.frames if name.endswith(".trades")), key=run.rows, default="telemetry.streams"
    )
    return _HOW_TO_READ.format(frame=frame)


def _fields(rows: list[dict[str, Any]], rates: dict[str, list[float]], width: int) -> list[Field]:
    states = [Text(row["state"], style=_STYLES.get(row["state"], "")) for row in rows]
    columns = max(8, min(_SPAN_S, width - 62))
    over_time = [Text(_spark(rates.get(row["stream"], []), columns), style="cyan") for row in rows]
    return [
        Field("stream", [row["stream"] for row in rows], justify="left"),
        Field("state", states, justify="left"),
        Field("symbols", [_symbols(row) for row in rows]),
        Field("messages/s", [_rate(row["messages_per_s"]) for row in rows]),
        Field("rate over time", over_time, 3, justify="left"),
        Field("messages", [f"{row['messages']:,}" for row in rows], 4),
        Field("latency\np50 ms", [_number(row["latency_p50_ms"]) for row in rows], 5),
        Field("latency\np99 ms", [_number(row["latency_p99_ms"]) for row in rows]),
        Field("rows", [f"{row['rows']:,}" for row in rows], 6),
        Field("pid", [str(row["pid"] or "") for row in rows], 7),
    ]


def _spark(values: list[float], columns: int) -> str:
    """Return a line of `columns` bars for the newest values; the tallest bar is the highest of them."""
    step = -(-_SPAN_S // columns)
    means = [sum(part) / len(part) for part in (values[i : i + step] for i in range(0, len(values), step))]
    top = max(means, default=0.0)
    return "".join(
        _LEVELS[min(7, int(value / top * 8))] if top else _LEVELS[0] for value in means[-columns:]
    )


def _symbols(row: dict[str, Any]) -> Text:
    text = Text(f"{row['symbols_ok']}")
    if row["symbols_failed"]:
        text.append(f", {row['symbols_failed']} failed", style="red")
    return text


def _rate(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and math.isfinite(value) else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _machine_line(run: Attachment, rows: list[dict[str, Any]]) -> Text:
    """Return one line for all cores and workers."""
    busy, size, queue = (sum(row[f"pool_{part}"] for row in rows) for part in ("busy", "size", "queue"))
    line = Text(style="bold")
    if cores := queries.cores_now(run):
        line.append(f" cores {sum(cores) / 100:.1f} of {len(cores)} busy ")
        line.append("".join(_LEVELS[min(7, int(value / 12.5))] for value in cores), style="cyan")
    workers = f"workers {busy} of {size} busy" if size else "no workers: feeds decode"
    line.append(f"  {workers}, batches waiting: {queue}")
    if (per_batch := queries.messages_per_batch(run)) is not None:
        line.append(f", {per_batch:,.1f} messages per batch", style="dim")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _event_lines(run: Attachment, count: int, notes: list[str]) -> Text:
    """Return the newest events, with the number of log lines that need attention."""
    lines = Text()
    if notes:
        count -= 1
        lines.append(f" {len(notes)} warnings, shown at the end: {notes[-1]}\n", style="yellow")
    for event in queries.recent_events(run, count):
        lines.append(f" {event['ts'].astimezone():%H:%M:%S} ", style="dim")
        lines.append(f"{event['stream']:<8} ", style="bold")
        lines.append(f"{event['text']}\n", style=_SEVERITY_STYLES.get(event["severity"], ""))
    lines.rstrip()
    lines.no_wrap, lines.overflow = True, "ellipsis"
    return lines
