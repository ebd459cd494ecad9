"""The picture of a soak: small plots over the same minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import soak_verdict
from benchmarks.soak_verdict import Sample

ROLES = {
    "supervisor": "#4e79a7",
    "feed": "#f28e2b",
    "worker": "#59a14f",
    "reader": "#b07aa1",
    "simulator": "#9c9c9c",
}
STREAMS = {"options": "#e15759", "crypto": "#edc948", "news": "#76b7b2", "stocks": "#4e79a7"}
_DARK = "#222222"


def draw(samples: Sequence[Sample], verdict: dict[str, Any], title: str, path: Path) -> None:
    """Write the picture to `path`, a PNG. Raises `ModuleNotFoundError` without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style = {
        "font.size": 8.5,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.1,
        "legend.frameon": False,
        "legend.fontsize": 7.5,
    }
    with mpl.rc_context(style):
        figure, axes = plt.subplots(3, 3, figsize=(15, 10), sharex=True, layout="constrained")
        minutes = [s["t_s"] / 60 for s in samples]
        plots: list[Callable[[Any, list[float], Sequence[Sample]], None]] = [
            _rate,
            _latency,
            _in_flight,
            _memory("rss", "RSS"),
            _memory("pss", "PSS"),
            _shared_memory,
            _counts("fds", "open descriptors"),
            _counts("threads", "threads"),
            _rows,
        ]
        for axis, plot in zip(axes.flat, plots, strict=True):
            plot(axis, minutes, samples)
            axis.axvspan(0, verdict["warm_up_s"] / 60, color="#f4f1e8", zorder=0, linewidth=0)
            axis.margins(x=0)
        for name, place in (("rss", (1, 0)), ("shm", (1, 2)), ("fds", (2, 0))):
            _fit(axes[place], verdict, name)
        for axis in axes[2]:
            axis.set_xlabel("minutes (shaded: warm-up, not judged)")
        for axis in axes.flat:
            _legend(axis)
        state = "flat" if verdict["flat"] else "not flat" if verdict["lines"] else "not judged"
        figure.suptitle(f"{state}: {title}", fontsize=12, x=0.01, ha="left")
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _legend(axis: Any) -> None:
    """Place the legend between title and plot, where it hides no line."""
    handles, labels = axis.get_legend_handles_labels()
    columns = len(labels) if len(labels) <= 5 else 4
    rows = -(-len(labels) // columns)
    axis.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=columns,
        borderaxespad=0,
        borderpad=0.2,
        handlelength=1.2,
        columnspacing=1.2,
        labelspacing=0.2,
    )
    axis.set_title(axis.get_title(loc="left"), loc="left", pad=6 + 13 * rows)


def _fit(axis: Any, verdict: dict[str, Any], name: str) -> None:
    """Draw the fitted line over the time judged."""
    found = verdict["lines"].get(name)
    if found is None:
        return
    scale = 1.0 if name == "fds" else 1e6
    start, stop = verdict["warm_up_s"], verdict["warm_up_s"] + verdict["judged_s"]
    ends = [found["first"] / scale, (found["first"] + found["rise"]) / scale]
    unit = "" if name == "fds" else " MB"
    label = f"fit: {found['per_hour'] / scale:+.1f}{unit}/h"
    axis.plot([start / 60, stop / 60], ends, color="#d62728", linestyle="--", label=label, zorder=5)


def _by_role(samples: Sequence[Sample], what: str, scale: float) -> dict[str, list[float]]:
    return {
        role: [sum(p[what] for p in s["processes"] if p["role"] == role) / scale for s in samples]
        for role in ROLES
    }


def _memory(what: str, name: str) -> Callable[[Any, list[float], Sequence[Sample]], None]:
    def plot(axis: Any, minutes: list[float], samples: Sequence[Sample]) -> None:
        axis.set_title(f"{name}, MB, by role")
        total = [soak_verdict.of_engine(s, what) / 1e6 for s in samples]
        axis.plot(minutes, total, color=_DARK, label="engine")
        for role, values in _by_role(samples, what, 1e6).items():
            axis.plot(minutes, values, color=ROLES[role], label=role)
        axis.set_ylim(bottom=0)

    return plot


def _counts(what: str, name: str) -> Callable[[Any, list[float], Sequence[Sample]], None]:
    def plot(axis: Any, minutes: list[float], samples: Sequence[Sample]) -> None:
        axis.set_title(f"{name}, by role")
        axis.plot(minutes, [soak_verdict.of_engine(s, what) for s in samples], color=_DARK, label="engine")
        for role, values in _by_role(samples, what, 1).items():
            axis.plot(minutes, values, color=ROLES[role], label=role)
        axis.set_ylim(bottom=0)

    return plot


def _shared_memory(axis: Any, minutes: list[float], samples: Sequence[Sample]) -> None:
    axis.set_title("/dev/shm, MB")
    axis.plot(minutes, [soak_verdict.shared_memory(s) / 1e6 for s in samples], color=_DARK, label="judged")
    parts = {"frames": "#4e79a7", "slabs": "#f28e2b", "supervisor": "#59a14f"}
    for part, color in parts.items():
        axis.plot(minutes, [s["shm"][part] / 1e6 for s in samples], color=color, label=part)
    axis.set_ylim(bottom=0)


def _rate(axis: Any, minutes: list[float], samples: Sequence[Sample]) -> None:
    axis.set_title("thousand messages/s")
    sent = [sum(x["sent"] for x in s["streams"].values()) for s in samples]
    got = [soak_verdict.received(s) for s in samples]
    for values, color, label in ((sent, "#9c9c9c", "sent"), (got, "#4e79a7", "received")):
        rates = [
            (b - a) / (t - s) / 60e3
            for a, b, s, t in zip(values, values[1:], minutes, minutes[1:], strict=False)
        ]
        axis.plot(minutes[1:], rates, color=color, label=label)
    axis.set_ylim(bottom=0)


def _latency(axis: Any, minutes: list[float], samples: Sequence[Sample]) -> None:
    axis.set_title("received → visible, ms, of each second")
    for name, color in (("p50", "#4e79a7"), ("p99", "#e15759")):
        values = [float("nan") if (v := s["latency_ms"][name]) is None else v for s in samples]
        axis.plot(minutes, values, color=color, label=name)
    axis.set_yscale("log")
    for formatted in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        formatted(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else "")


def _in_flight(axis: Any, minutes: list[float], samples: Sequence[Sample]) -> None:
    axis.set_title("payloads in flight")
    for stream, color in STREAMS.items():
        values = [s["streams"][stream]["in_flight"] for s in samples]
        axis.plot(minutes, values, color=color, label=stream)
    axis.set_ylim(bottom=0)


def _rows(axis: Any, minutes: list[float], samples: Sequence[Sample]) -> None:
    axis.set_title("million rows written")
    for stream, color in STREAMS.items():
        values = [s["streams"][stream]["rows"] / 1e6 for s in samples]
        dashed = "--" if stream == "stocks" else "-"  # it would hide options, which have as many
        axis.plot(minutes, values, color=color, linestyle=dashed, label=stream)
    axis.set_ylim(bottom=0)
