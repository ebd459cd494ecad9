"""Pictures of the results, one for each benchmark."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import Record

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
_COLORS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c9c9c")


def draw(question: str, records: Sequence[Record]) -> bytes | None:
    """Return the picture of a benchmark's records as PNG; None if it has none."""
    if question not in PICTURES or not records:
        return None
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(_STYLE):
        figure = PICTURES[question](plt, records)
        into = io.BytesIO()
        figure.savefig(into, dpi=110, bbox_inches="tight")
        plt.close(figure)
    return into.getvalue()


def _draw_bars(
    axis: Any, records: Sequence[Record], measure: str, by: Callable[[Record], str], scale: float
) -> None:
    """Draw bars by subject, with a colour for each group and the spread as error bars."""
    subjects = list(dict.fromkeys(r["subject"] for r in records))
    groups = list(dict.fromkeys(map(by, records)))
    height = 0.8 / len(groups)
    for number, group in enumerate(groups):
        found = {r["subject"]: r for r in records if by(r) == group and measure in r}
        places = [i + number * height for i, name in enumerate(subjects) if name in found]
        mine = [found[name] for name in subjects if name in found]
        values = [r[measure] / scale for r in mine]
        low = [(r[measure] - r["spread"][measure][0]) / scale for r in mine]
        high = [(r["spread"][measure][1] - r[measure]) / scale for r in mine]
        axis.barh(
            places,
            values,
            height,
            xerr=[low, high],
            color=_COLORS[number % len(_COLORS)],
            label=group,
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
    axis.set_yticks([i + 0.4 - height / 2 for i in range(len(subjects))], subjects)
    axis.invert_yaxis()
    axis.legend(fontsize=8)


def _label(name: str, text: str) -> Callable[[Record], str]:
    return lambda record: text.format(record["params"].get(name))


def _fetch(plt: Any, records: Sequence[Record]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 4.5))

    def size(record: Record) -> str:
        params = record["params"]
        return f"{params['streams']} × {params['symbols']}, {params['latency_ms']} ms"

    sizes = list(dict.fromkeys(map(size, records)))
    for number, subject in enumerate(dict.fromkeys(r["subject"] for r in records)):
        found = {size(r): r["t_total_s"] for r in records if r["subject"] == subject}
        places = [i + number * 0.27 for i in range(len(sizes))]
        values = [found[each] for each in sizes]
        axis.bar(places, values, 0.25, color=_COLORS[number], label=subject)
    axis.set_xticks([i + 0.27 for i in range(len(sizes))], sizes, rotation=20, ha="right")
    axis.set_yscale("log")
    axis.set_title("seconds until every symbol is fetched, by streams × symbols and ms per answer")
    axis.legend()
    return figure


def _decode(plt: Any, records: Sequence[Record]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 6))
    source = "simulator"  # a recorded day is only in the tables
    mine = [r for r in records if r["params"]["source"] == source and r["subject"] != "memcpy"]
    _draw_bars(axis, mine, "messages_per_s", _label("messages_per_payload", "{} per payload"), 1e6)
    axis.set_title("million messages/s on one core, messages of the simulator")
    return figure


def _pages(plt: Any, records: Sequence[Record]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 3.6))
    _draw_bars(axis, records, "messages_per_s", lambda record: "10,000 trades per page", 1e6)
    axis.set_title("million rows/s of gzip'd pages of history, on one core")
    return figure


def _bars(plt: Any, records: Sequence[Record]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 3))
    _draw_bars(axis, records, "messages_per_s", _label("symbols", "{} symbols"), 1e6)
    axis.set_title("million trades/s to 1-second and 1-minute bars, on one core")
    return figure


def _receive(plt: Any, records: Sequence[Record]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 4))
    _draw_bars(axis, records, "ns_per_payload", _label("messages_per_payload", "{} per payload"), 1e3)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axis.set_title("receiver's CPU time per payload, µs")
    return figure


def _frames(plt: Any, records: Sequence[Record]) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.6), layout="constrained")
    read = [r for r in records if r["question"] == "read"]
    tail = [r for r in records if r["question"] == "tail"]
    if read:
        _draw_bars(axes[0], read, "read_ms", lambda record: "100,000 rows", 1)
        axes[0].set_xscale("log")
        axes[0].set_title("ms until another process has read the rows")
    if tail:
        _draw_bars(axes[1], tail, "p50_us", _label("commits_per_s", "{} commits/s"), 1e3)
        axes[1].set_title("ms from a commit to a reader, p50")
    return figure


def _pools(plt: Any, records: Sequence[Record]) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.6), layout="constrained")
    for axis, measure in zip(axes, ("task_us", "cpu_us"), strict=True):
        _draw_bars(axis, records, measure, _label("under_way", "{} open tasks"), 1e3)
    axes[0].set_title("1 MB to another process, ms per task")
    axes[1].set_title("the caller's CPU time, ms per task")
    return figure


def _handoff(plt: Any, records: Sequence[Record]) -> Any:
    from benchmarks.bench_handoff import describe_case
    from benchmarks.scaling import fit_model, gains, group_by_case

    figure, axes = plt.subplots(1, 2, figsize=(14, 6), width_ratios=(1, 1), layout="constrained")
    cases = group_by_case(records)
    counts = [int(r["workers"]) for r in cases[0][1:]]
    height = 0.8 / max(1, len(counts))
    for number, count in enumerate(counts):
        gained = [gains(mine).get(count, 0.0) for mine in cases]
        places = [i + number * height for i in range(len(cases))]
        label = f"{count} worker{'s' if count > 1 else ''}"
        axes[0].barh(places, gained, height, color=_COLORS[number % len(_COLORS)], label=label)
    middle = 0.4 - height / 2
    names = [describe_case(mine[0]["params"]) for mine in cases]
    axes[0].set_yticks([i + middle for i in range(len(names))], names, fontsize=8)
    axes[0].invert_yaxis()
    axes[0].axvline(1, color="#444444", linewidth=1)
    axes[0].set_title("× inline")
    axes[0].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=5)
    shown = [mine for mine in cases if _is_usual(mine[0]["params"])]
    for number, mine in enumerate(shown):
        color, model = _COLORS[number % len(_COLORS)], fit_model(mine)
        measured = [r["messages_per_s"] / 1e6 for r in mine]
        workers = [r["workers"] for r in mine]
        axes[1].plot(workers, measured, "o", color=color, label=describe_case(mine[0]["params"]))
        if model is not None:
            xs = list(range(max(9, int(workers[-1]) + 1)))
            axes[1].plot(xs, [model(n) / 1e6 for n in xs], "--", color=color, linewidth=1)
    axes[1].set_title("M messages/s: measured (dots), model with a core per process (dashed)")
    axes[1].set_xlabel("workers (0: inline)")
    axes[1].set_ylim(bottom=0)
    axes[1].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    return figure


def _is_usual(params: Mapping[str, Any]) -> bool:
    """Return whether a case has the usual slabs, symbols and cores."""
    if params["what"] == "pages":
        return True
    if "cores" in params:
        return False
    return bool((params["slab_kb"], params["symbols"]) == (1024, 30) and params["per_payload"] != 2)


def _engine(plt: Any, records: Sequence[Record]) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(12, 2.4), layout="constrained")
    _draw_bars(axes[0], records, "messages_per_s", lambda record: "four streams", 1e6)
    axes[0].set_title("million messages/s, from the socket to the frames")
    _draw_bars(axes[1], records, "cpu_s_per_million", lambda record: "four streams", 1)
    axes[1].set_title("CPU seconds per million messages")
    return figure


def _backfill(plt: Any, records: Sequence[Record]) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(12, 2.6), layout="constrained")
    _draw_bars(axes[0], records, "messages_per_s", _label("symbols", "{} symbols"), 1e3)
    both = {r["params"]["symbols"] for r in records if r["subject"] != "mdstream"}
    rest = sorted({r["params"]["symbols"] for r in records} - both)
    note = f" (alpaca-py: not measured with {', '.join(map(str, rest))} symbols)" if rest else ""
    axes[0].set_title(f"thousand rows/s, start included{note}")
    _draw_bars(axes[1], records, "peak_pss_mb", _label("symbols", "{} symbols"), 1)
    axes[1].set_title("peak memory, MB (PSS)")
    return figure


def _day(plt: Any, records: Sequence[Record]) -> Any:
    figure, axes = plt.subplots(3, 1, figsize=(8, 6), sharex=True)
    seconds = [r["params"]["second"] for r in records]
    axes[0].plot(seconds, [r["messages_per_s"] for r in records], color=_COLORS[0])
    axes[0].set_title("messages/s")
    axes[1].step(seconds, [r["workers"] for r in records], where="post", color=_COLORS[1])
    axes[1].set_ylim(0, 1.1 * max(1, *(r["workers"] for r in records)))
    axes[1].set_title("workers of both streams")
    for share, color in ((50, _COLORS[2]), (99, _COLORS[3])):
        axes[2].plot(seconds, [r[f"p{share}_ms"] for r in records], color=color, label=f"p{share}")
    axes[2].set_yscale("log")
    axes[2].set_title("latency, ms")
    axes[2].set_xlabel("second")
    axes[2].legend()
    figure.tight_layout()
    return figure


PICTURES: dict[str, Callable[[Any, Sequence[Record]], Any]] = {
    "day": _day,
    "fetch": _fetch,
    "decode": _decode,
    "pages": _pages,
    "bars": _bars,
    "frames": _frames,
    "receive": _receive,
    "pools": _pools,
    "handoff": _handoff,
    "backfill": _backfill,
    "engine": _engine,
}
