"""The utilization of a run as text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from mdstream.views.table import Field, fit

_LEVELS = " ▁▂▃▄▅▆▇█"
_MOST_LINES = 16
"""With more cores, neighbours share a line."""
_MOST_COLUMNS = 100
_NOTEWORTHY = 0.05


def show(found: dict[str, Any], console: Console) -> None:
    """Print what limited the run, how busy its cores were, its processes, and the stages of its batches."""
    console.print(draw(found, console))


def draw_brief(found: dict[str, Any]) -> list[Text]:
    """Return what limited the run, and how busy its cores were, as a few lines."""
    return [Text(found["limit"]), *([Text(_cores_line(found))] if found["cores"]["count"] else [])]


def draw(found: dict[str, Any], console: Console) -> RenderableType:
    """Return all of the report, as wide as `console`."""
    parts: list[RenderableType] = [_overview(found, console)]
    if (machine := _machine_line(found)) is not None:
        parts.append(machine)
    parts.append(Text("\nProcesses, over the whole run:", style="dim"))
    parts.append(fit(_roles(found), console.width, console))
    if found["streams"]:
        since = (
            "\nStreams, from the first second with messages to the end of the run. Times are means per "
            "batch, weighted by messages, REST bodies included:"
        )
        parts += [Text(since, style="dim"), fit(_streams(found["streams"]), console.width, console)]
    parts += _models(found["streams"])
    return Group(*parts)


def _overview(found: dict[str, Any], console: Console) -> RenderableType:
    parts: list[RenderableType] = [Text(found["limit"], style="bold")]
    if found["cores"]["count"]:
        parts += [Text(_cores_line(found)), _heat_map(found, console.width)]
    return Group(*parts)


def _cores_line(found: dict[str, Any]) -> str:
    cores, flow = found["cores"], found["flow"]
    count = "1 core" if cores["count"] == 1 else f"{cores['count']} cores"
    text = (
        f"{count} over {found['seconds']:.0f} s: user {cores['user']:.0f}%, "
        f"system {cores['system']:.0f}%, idle {cores['idle']:.0f}%"
    )
    if not flow["conclusive"]:
        return text
    others = f", other programs {100 * flow['foreign']:.0f}% of the busy time"
    return (
        f"{text}\nwhile messages arrived ({flow['seconds']:.0f} s): idle {100 - flow['busy']:.0f}%"
        f"{others if flow['foreign'] >= _NOTEWORTHY else ''}; engine {flow['engine_cpu_s']:.1f} s of "
        f"CPU time, {flow['share']:.0f}% of it decoding and aggregating"
    )


def _machine_line(found: dict[str, Any]) -> Text | None:
    """Return the use of memory and network, and the rate of context switches."""
    machine = found.get("machine") or {}
    if not machine.get("memory_used_bytes"):
        return None
    network, switches = (
        sum(values) / len(values) for values in (machine["net_recv_bytes"], machine["switches"])
    )
    return Text(
        f"memory in use on this machine at most {max(machine['memory_used_bytes']) / 1e9:.1f} GB, "
        f"{max(machine['shm_bytes']) / 1e6:,.0f} MB of it shared memory of this run; "
        f"{network / 1e6:,.1f} MB/s received, {switches:,.0f} context switches/s"
    )


def _heat_map(found: dict[str, Any], width: int) -> Text:
    """Return one line per core, one character per moment; a taller bar is a busier core."""
    by_core: Sequence[Sequence[float]] = found["cores"]["by_core"]
    together = -(-len(by_core) // _MOST_LINES)
    columns = max(8, min(_MOST_COLUMNS, width - 24))
    lines = Text()
    for first in range(0, len(by_core), together):
        group = by_core[first : first + together]
        values = _thin_out([sum(each) / len(group) for each in zip(*group, strict=True)], columns)
        last = first + len(group) - 1
        name = f"core {first}" if last == first else f"cores {first}–{last}"
        lines.append(f"  {name:<12}", style="dim")
        for value in values:
            lines.append(_LEVELS[min(8, round(value / 12.5))], style=_heat(value))
        mean = sum(values) / len(values) if values else 0.0
        lines.append(f" {mean:3.0f}%\n", style="dim")
    lines.rstrip()
    lines.no_wrap = True
    return lines


def _heat(value: float) -> str:
    return "red" if value >= 90 else "yellow" if value >= 60 else "green"


def _thin_out(values: Sequence[float], most: int) -> list[float]:
    """Return at most `most` values: means of neighbours."""
    step = -(-len(values) // most) if values else 1
    return [sum(values[i : i + step]) / len(values[i : i + step]) for i in range(0, len(values), step)]


def _roles(found: dict[str, Any]) -> list[Field]:
    rows = found["roles"]
    seconds = max(1.0, found["seconds"])

    def rates(name: str) -> list[RenderableType]:
        return [f"{row[name] / seconds:,.0f}" for row in rows]

    return [
        Field("process", [row["role"] for row in rows], justify="left"),
        Field("stream", [row["stream"] for row in rows], justify="left"),
        Field("count", [str(row["processes"]) for row in rows], 3),
        Field("CPU s", [f"{row['cpu_s']:,.1f}" for row in rows]),
        Field("user", [f"{row['cpu_user_s']:,.1f}" for row in rows], 4),
        Field("system", [f"{row['cpu_system_s']:,.1f}" for row in rows], 4),
        Field("share", [f"{100 * row['share']:.0f}%" for row in rows]),
        Field("RSS MB", [f"{row['rss_bytes'] / 1e6:,.0f}" for row in rows], 2),
        Field("waits/s", rates("voluntary_switches"), 5),
        Field("preempted/s", rates("involuntary_switches"), 5),
    ]


def _streams(streams: dict[str, dict[str, Any]]) -> list[Field]:
    rows = list(streams.values())

    def stages(name: str) -> list[RenderableType]:
        return [f"{row['stages_ms'][name]['mean']:.2f}" for row in rows]

    def cells(name: str, text: str) -> list[RenderableType]:
        return [format(row[name], text) if name in row else "-" for row in rows]

    return [
        Field("stream", list(streams), justify="left"),
        Field("messages\nper s", cells("messages_per_s", ",.0f")),
        Field("messages\nper batch", [f"{row['messages_per_batch']:,.1f}" for row in rows], 2),
        Field("receive\nms", stages("receive"), 1),
        Field("queue\nms", stages("queue"), 1),
        Field("decode\nms", stages("decode"), 1),
        Field("commit\nms", stages("commit"), 1),
        Field("feed\nbusy %", cells("feed_busy", ".0f"), 2),
        Field("workers\nbusy %", cells("workers_busy", ".0f"), 2),
        Field("feed ns\nper message", cells("feed_ns", ",.0f"), 3),
        Field("worker ns\nper message", cells("worker_ns", ",.0f"), 3),
    ]


def _models(streams: dict[str, dict[str, Any]]) -> list[Text]:
    """Return what each stream could reach, or why that is unknown."""
    lines, reasons = list[str](), dict[str, list[str]]()
    for name, stream in streams.items():
        if (found := stream.get("model")) is not None:
            lines.append(f"  {name:<8} {_model(found, stream['workers'])}")
        elif why := stream.get("no_model"):
            reasons.setdefault(why, []).append(name)
    if lines:
        lines.insert(0, _MODEL)
    for why, names in reasons.items():
        lines.append(f"{', '.join(names)}: {why} to estimate one more worker")
    return [Text(line, style="dim") for line in lines]


_MODEL = (
    "Model: each stream alone on this machine, at the cost per message of this run. The gain is an upper "
    "bound: a single process needs no hand-off (`python -m benchmarks handoff` measures it)."
)


def _model(found: dict[str, Any], workers: int) -> str:
    now, more = _millions(found["now_per_s"]), _millions(found["one_more_per_s"])
    if not workers:
        return (
            f"{now} without workers, {more} at most with one: decoding is "
            f"{100 * found['decode_share']:.0f}% of the cost"
        )
    return (
        f"{now} with {workers} worker{'s' if workers > 1 else ''}, {more} with one more; at most "
        f"{found['speedup']:.2f}× one process, efficiency at most {100 * found['efficiency']:.0f}%"
    )


def _millions(rate: float) -> str:
    return f"{rate / 1e6:.2f} M messages/s"
