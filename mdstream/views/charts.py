"""Charts of a run's utilization: as a picture, and as a page with picture and text.

Needs matplotlib, which comes with the extra `report`.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mdstream.errors import ConfigError
from mdstream.system.shared_places import open_named
from mdstream.views.utilization import draw

_ROLES = {
    "feed": "#f28e2b",
    "worker": "#59a14f",
    "forkserver": "#8cd17d",
    "supervisor": "#4e79a7",
    "recorder": "#b07aa1",
    "compiler": "#edc948",
    "simulator": "#bab0ac",
}
_TITLE_WIDTH = 150
"""Characters in a line of the title."""

_STAGES = {"receive": "#4e79a7", "queue": "#e15759", "decode": "#59a14f", "commit": "#f28e2b"}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; }}
body {{ margin: 2rem auto; max-width: 1240px; padding: 0 1rem; }}
h1 {{ font-size: 1.3rem; }} p.limit {{ font-size: 1.1rem; font-weight: 600; }}
img {{ width: 100%; height: auto; }} pre {{ font-size: 13px; overflow-x: auto; line-height: 1.25; }}
</style></head><body>
<h1>{title}</h1>
<p class="limit">{limit}</p>
<img alt="{alt}" src="data:image/png;base64,{picture}">
<pre>{text}</pre>
</body></html>
"""


def write(found: dict[str, Any], title: str, path: Path) -> None:
    """Write the report to `path`: a picture if its name ends with `.png`, else a page.

    Raises `ConfigError` if matplotlib is missing or the file cannot be written.
    """
    picture = paint(found, title)
    data = picture if path.suffix == ".png" else _page(found, title, picture).encode()
    try:
        with open_named(path) as file:
            file.write(data)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def paint(found: dict[str, Any], title: str) -> bytes:
    """Return the picture, as PNG."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install matplotlib") from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style = {
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
        "legend.fontsize": 8,
    }
    plots: list[Callable[[Any, dict[str, Any]], None]] = [
        _heat_map,
        _busy,
        _stages,
        _memory,
        _switches,
        _network,
    ]
    with mpl.rc_context(style):
        figure, axes = plt.subplots(3, 2, figsize=(14, 10.5), layout="constrained")
        for axis, plot in zip(axes.flat, plots, strict=True):
            plot(axis, found)
        limit = textwrap.fill(found["limit"], _TITLE_WIDTH)
        figure.suptitle(f"{title}\n{limit}", fontsize=11, x=0.01, ha="left")
        into = io.BytesIO()
        figure.savefig(into, dpi=110)
        plt.close(figure)
    return into.getvalue()


def _page(found: dict[str, Any], title: str, picture: bytes) -> str:
    console = Console(file=io.StringIO(), width=150, color_system=None)
    console.print(draw(found, console))
    assert isinstance(console.file, io.StringIO)
    return _PAGE.format(
        title=html.escape(title),
        limit=html.escape(found["limit"]),
        alt="busy time of the cores over time and by role, and time of batches by stage",
        picture=base64.b64encode(picture).decode(),
        text=html.escape(console.file.getvalue()),
    )


def _times(found: dict[str, Any], values: Sequence[float]) -> list[float]:
    """Return the middle of each bin, in seconds."""
    return [(index + 0.5) * found["bin_s"] for index in range(len(values))]


def _heat_map(axis: Any, found: dict[str, Any]) -> None:
    rows = found["cores"]["by_core"]
    axis.set_title("busy time of each core, %")
    axis.grid(visible=False)
    if not rows:
        return
    width = len(rows[0]) * found["bin_s"]
    image = axis.imshow(
        rows,
        aspect="auto",
        cmap="YlOrRd",
        vmin=0,
        vmax=100,
        interpolation="nearest",
        extent=(0, width, len(rows) - 0.5, -0.5),
    )
    axis.set_ylabel("core")
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("seconds")
    axis.figure.colorbar(image, ax=axis, pad=0.01)


def _busy(axis: Any, found: dict[str, Any]) -> None:
    axis.set_title("cores in use, by role")
    busy = {role: found["busy_by_role"][role] for role in _ROLES if role in found["busy_by_role"]}
    if not busy:
        return
    times = _times(found, next(iter(busy.values())))
    axis.stackplot(times, *busy.values(), labels=list(busy), colors=[_ROLES[r] for r in busy])
    total = [sum(each) / 100 for each in zip(*found["cores"]["by_core"], strict=True)]
    axis.plot(_times(found, total), total, color="#222222", linewidth=1, label="all programs")
    axis.axhline(found["cores"]["count"], color="#999999", linestyle=":", linewidth=1)
    axis.margins(x=0)
    axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
    axis.set_xlabel("seconds")
    axis.legend(loc="upper center", ncols=4)


def _stages(axis: Any, found: dict[str, Any]) -> None:
    axis.set_title("mean time of a batch in each stage, ms (weighted by messages, REST bodies included)")
    names = list(found["streams"])
    left = [0.0] * len(names)
    for stage, color in _STAGES.items():
        values = [found["streams"][name]["stages_ms"][stage]["mean"] for name in names]
        axis.barh(names, values, left=left, color=color, label=stage, height=0.6)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axis.invert_yaxis()
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=4)


def _memory(axis: Any, found: dict[str, Any]) -> None:
    axis.set_title("memory, MB: RSS by role (with shared pages), and shared memory of the run")
    for role, color in _ROLES.items():
        if role in found["memory_by_role"]:
            values = [value / 1e6 for value in found["memory_by_role"][role]]
            axis.plot(_times(found, values), values, color=color, label=role)
    _line(axis, found, "shm_bytes", 1e6, "shared memory")


def _switches(axis: Any, found: dict[str, Any]) -> None:
    axis.set_title("context switches of the machine, thousands/s")
    _line(axis, found, "switches", 1e3, "")


def _network(axis: Any, found: dict[str, Any]) -> None:
    axis.set_title("received by all network interfaces, MB/s (loopback too)")
    _line(axis, found, "net_recv_bytes", 1e6, "")


def _line(axis: Any, found: dict[str, Any], name: str, scale: float, label: str) -> None:
    values = [value / scale for value in found["machine"].get(name, [])]
    axis.plot(_times(found, values), values, color="#222222", label=label)
    axis.margins(x=0)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("seconds")
    if label:
        axis.set_ylim(top=1.25 * axis.get_ylim()[1])  # room for the legend
        axis.legend(loc="upper center", ncols=5)
