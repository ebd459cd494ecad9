"""The live view: a table that a terminal shows while the engine runs, queried from telemetry frames."""

from __future__ import annotations

import math
import time
from typing import Any

import polars as pl
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from mdstream.engine.supervisor import RunEvent, Supervisor
from mdstream.reading.attach import Attachment
from mdstream.views.table import Field, fit

_RATE_OVER_S = 3
_EVENTS_SHOWN = 6

_STYLES = {
    "streaming": "green",
    "connecting": "yellow",
    "starting": "yellow",
    "restarting": "bold yellow",
    "draining": "cyan",
    "stopped": "dim",
    "failed": "bold red",
}


class LiveView:
    """Draws the run after every sample. Use as a context manager around `Supervisor.run`."""

    def __init__(self, console: Console, headline: str) -> None:
        self._headline = headline
        self._live = Live(Text("starting ..."), console=console, auto_refresh=False)
        self._attachment: Attachment | None = None

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, supervisor: Supervisor) -> None:
        """Draw what the telemetry frames hold now."""
        if self._attachment is None:
            self._attachment = Attachment(supervisor.path)
        elapsed = (time.time_ns() - supervisor.started_ns) / 1e9
        title = f"mdstream {supervisor.run_id} · {elapsed:.0f} s · {self._headline}"
        view = draw(self._attachment, list(supervisor.events), title, self._live.console)
        # The empty line is where the terminal shows the ^C; elsewhere it would push the view away.
        self._live.update(Group(view, ""), refresh=True)


def draw(run: Attachment, events: list[RunEvent], title: str, console: Console) -> RenderableType:
    """The whole view as one renderable, as wide as `console`."""
    recent = run.frame("telemetry.streams").filter(
        pl.col("ts") > pl.col("ts").max() - pl.duration(seconds=_RATE_OVER_S + 1)
    )
    now = streams_now(recent)
    table = fit(_fields(now), console.width - 4, console, expand=True)
    return Panel(
        Group(table, _cores_line(run), _pool_line(run, now), _event_lines(events)),
        title=title,
        box=box.ROUNDED,
    )


def streams_now(recent: pl.DataFrame) -> list[dict[str, Any]]:
    """The last row of each stream, with messages a second over the last few seconds."""
    query = (
        recent.lazy()
        .with_columns(pl.col("stream", "state").cast(pl.String))
        .group_by("stream", maintain_order=True)
        .agg(
            pl.all().last(),
            (
                (pl.col("messages").last() - pl.col("messages").first())
                / ((pl.col("ts").last() - pl.col("ts").first()).dt.total_nanoseconds() / 1e9)
            ).alias("messages_per_s"),
        )
    )
    return query.collect().to_dicts()


def _fields(rows: list[dict[str, Any]]) -> list[Field]:
    states = [Text(row["state"], style=_STYLES.get(row["state"], "")) for row in rows]
    pools = [f"{row['pool_busy']}/{row['pool_size']} +{row['pool_queue']}" for row in rows]
    return [
        Field("stream", [row["stream"] for row in rows], justify="left"),
        Field("state", states, justify="left"),
        Field("pid", [str(row["pid"] or "") for row in rows], 2),
        Field("symbols", [_symbols(row) for row in rows]),
        Field("msg/s", [_rate(row["messages_per_s"]) for row in rows]),
        Field("messages", [f"{row['messages']:,}" for row in rows], 4),
        Field("p50 ms", [_number(row["latency_p50_ms"]) for row in rows], 3),
        Field("p99 ms", [_number(row["latency_p99_ms"]) for row in rows]),
        Field("rows", [f"{row['rows']:,}" for row in rows], 1),
        Field("pool", pools, 5),
    ]


def _symbols(row: dict[str, Any]) -> Text:
    failed = row["symbols_failed"]
    return Text(f"{row['symbols_ok']}").append(f"/{failed}", style="red" if failed else "dim")


def _rate(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and math.isfinite(value) else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _cores_line(run: Attachment) -> RenderableType:
    frame = run.frame("telemetry.cores")
    if not frame.height:
        return Text("")
    last = frame.filter(pl.col("ts") == pl.col("ts").max()).sort("core")["busy_percent"]
    busy = sum(last) / 100
    line = Text(f" cores {busy:.1f} of {len(last)} busy  ", style="bold")
    for value in last:
        line.append(" ▁▂▃▄▅▆▇█"[min(8, round(value / 12.5))], style="cyan")
    return line


def _pool_line(run: Attachment, rows: list[dict[str, Any]]) -> RenderableType:
    """All workers together; the table has those of each stream where there is room."""
    busy, size, queue = (sum(row[f"pool_{part}"] for row in rows) for part in ("busy", "size", "queue"))
    line = Text(f" pool {busy} of {size} busy, {queue} queued", style="bold")
    if "telemetry.batches" in run.frames:  # each feed makes its part of it as it starts
        batches = run.frame("telemetry.batches").tail(200)
        if batches.height:
            per = batches["messages"].sum() / batches.height
            line.append(f"   {per:,.1f} messages a batch", style="dim")
    return line


def _event_lines(events: list[RunEvent]) -> RenderableType:
    lines = Text()
    for event in events[-_EVENTS_SHOWN:]:
        lines.append(f"\n {event.ts.astimezone():%H:%M:%S} ", style="dim")
        lines.append(f"{event.stream:<8} ", style="bold")
        lines.append(event.text)
    lines.no_wrap = True
    lines.overflow = "ellipsis"
    return lines
