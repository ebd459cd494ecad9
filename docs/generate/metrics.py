"""The engine's metrics, from the table in `mdstream.telemetry.metrics`."""

from __future__ import annotations

from docs.generate.markdown import code, plain, table
from mdstream.telemetry import metrics
from mdstream.telemetry.metrics import Metric

TABLES: dict[str, tuple[Metric, ...]] = {
    "Streams": metrics.STREAM,
    "Processes": metrics.PROCESS,
    "Cores": metrics.CORE,
    "The machine and the run": metrics.MACHINE,
}


def render() -> str:
    """Return a table for each kind of row: metric, kind, unit, meaning.

    Raises `ValueError` for a metric without a meaning.
    """
    parts = []
    for title, rows in TABLES.items():
        shown = [_row(metric) for metric in rows if not metric.is_internal]
        parts += [f"### {title}\n", table(("metric", "kind", "unit", "meaning"), shown)]
    return "\n".join(parts)


FRAMES = {
    "telemetry.streams": metrics.STREAM,
    "telemetry.processes": metrics.PROCESS,
    "telemetry.cores": metrics.CORE,
    "telemetry.machine": metrics.MACHINE,
}
"""The metrics that a frame has as columns."""


def metric_of(frame: str, column: str) -> Metric | None:
    """Return the metric that a column of a frame shows, if it shows one."""
    return next((metric for metric in FRAMES.get(frame, ()) if metric.name == column), None)


def _row(metric: Metric) -> tuple[str, ...]:
    if not metric.help:
        raise ValueError(f"metric {metric.name} has no meaning")
    loss = " **A loss**: the report warns where it is not 0." if metric.is_loss else ""
    return code(metric.name), str(metric.kind), metric.unit, plain(metric.help) + loss
