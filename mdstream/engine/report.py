"""The report of a run: queries on its telemetry frames, as JSON and as a table."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import polars.selectors as cs

from mdstream import utilization
from mdstream.engine.feed_process import FeedProcess
from mdstream.engine.supervisor import Supervisor
from mdstream.errors import ConfigError
from mdstream.reading.attach import Attachment
from mdstream.store.rejects import reject_path
from mdstream.telemetry.metrics import group_values

_EVENTS_KEPT = 200


def build(supervisor: Supervisor) -> dict[str, Any]:
    """Everything about a run that has ended, as plain values."""
    run = Attachment(supervisor.path)
    rows = supervisor.streams  # also if there was no room for the last row of the frame
    streams = {name: _stream(rows[name], record, supervisor) for name, record in supervisor.feeds.items()}
    for name, stream in streams.items():
        if f"{name}.bars_1m" in run.frames:
            stream["bars"] |= _bars(run, name)
    return {
        "run": run.run,
        "started": datetime.fromtimestamp(supervisor.started_ns / 1e9, UTC).isoformat(),
        "duration_s": (supervisor.ended_ns - supervisor.started_ns) / 1e9,
        "t_total_s": t_total_s(supervisor),
        "simulated": supervisor.config.simulated,
        "streams": streams,
        "frames": {name: {"rows": run.rows(name)} for name in run.frames},
        "cores": _cores(run),
        "processes": _processes(run),
        "utilization": utilization.build(run),
        "recorded": _recorded(supervisor),
        "telemetry_rows_lost": supervisor.telemetry_rows_lost,
        "events": _events(run),
        "python": platform.python_version(),
    }


def _events(run: Attachment) -> list[dict[str, Any]]:
    """The newest events, oldest first."""
    frame = run.frame("telemetry.events").tail(_EVENTS_KEPT)
    return [
        {**event, "ts": event["ts"].isoformat(), "fields": orjson.loads(event["fields"])}
        for event in frame.with_columns(cs.categorical().cast(pl.String)).to_dicts()
    ]


def _recorded(supervisor: Supervisor) -> dict[str, Any] | None:
    """What the recorder brought into the store; None where nothing was to be recorded."""
    if supervisor.recorder is None:
        return None
    state = supervisor.recorder.state
    return {
        "store": state.store,
        "whole": state.finished,
        "rows": state.rows,
        "missed": state.missed,
        "unstorable": state.unstorable,
        "commits": state.commits,
        "trouble": state.trouble or None,
        "frames": {name: frame.stored for name, frame in state.frames.items()},
    }


def t_total_s(supervisor: Supervisor) -> float | None:
    """How long the first cycle of all streams took, from the first start to the last end."""
    firsts = [record.cycles[1] for record in supervisor.feeds.values() if 1 in record.cycles]
    if not firsts:
        return None
    return (max(end for _, end in firsts) - min(start for start, _ in firsts)) / 1e9


def _stream(row: dict[str, Any], record: FeedProcess, supervisor: Supervisor) -> dict[str, Any]:
    """One stream: its metrics of the last sample, and what only the supervisor knows."""
    rejects = reject_path(supervisor.config.rejects, supervisor.run_id, record.stream)
    times = sorted((end - start) / 1e9 for start, end in record.cycles.values())
    first = record.cycles.get(1)
    found = {
        "state": record.stage.label,
        "reason": record.failure or None,
        **group_values(row),
        "symbols_failed": dict(sorted(record.failed.items())),  # which ones and why, not how many
        "rejects_file": str(rejects) if rejects.exists() else None,
    }
    found["fetch"] |= {
        "t_stream_s": (first[1] - first[0]) / 1e9 if first else None,
        "t_stream_max_s": times[-1] if times else None,
    }
    return found


def _bars(run: Attachment, stream: str) -> dict[str, Any]:
    """Minute bars built here against those that the service sent: how many of each number differ."""
    beside = run.compare_bars(stream) if f"{stream}.bars" in run.frames else None
    differing: dict[str, int] = {}
    if beside is not None:
        counts = beside["differing"].explode(empty_as_null=False).value_counts(sort=True)
        differing = dict(counts.iter_rows())
    return {
        "compared": beside.height if beside is not None else 0,
        "equal": int((beside["differing"].list.len() == 0).sum()) if beside is not None else 0,
        "differing": differing,
    }


def _cores(run: Attachment) -> dict[str, Any]:
    """Percent busy over the run, of each core and on average."""
    # The first sample covers no time yet.
    frame = run.frame("telemetry.cores")
    if frame.height:
        frame = frame.filter(pl.col("ts") > pl.col("ts").min())
    by_core = frame.group_by("core").agg(pl.col("busy_percent").mean()).sort("core")
    busy = [round(value, 2) for value in by_core["busy_percent"]]
    return {
        "count": len(busy),
        "busy_mean": round(sum(busy) / len(busy), 2) if busy else None,
        "by_core": busy,
    }


def _processes(run: Attachment) -> list[dict[str, Any]]:
    frame = run.frame("telemetry.processes").with_columns(pl.col("role", "stream").cast(pl.String))
    by_process = (
        frame.group_by("role", "stream", "pid", maintain_order=True)
        .agg(pl.col("cpu_user_s").last() + pl.col("cpu_system_s").last(), pl.col("rss_bytes").max())
        .rename({"cpu_user_s": "cpu_s", "rss_bytes": "rss_max_bytes"})
    )
    return by_process.to_dicts()


def check_path(path: str | Path) -> None:
    """Raise `ConfigError` if no report could be written there: better told before a run than after."""
    path = Path(path).absolute()
    if not path.parent.is_dir():
        raise ConfigError(f"report: no folder {path.parent}")
    if path.is_dir():
        raise ConfigError(f"report: {path} is a folder; name a file in it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"report: {path} cannot be written")


def write(report: dict[str, Any], path: str | Path) -> None:
    """Write the report as JSON. Raises `ConfigError` where the file cannot be written."""
    try:
        Path(path).write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise ConfigError(f"cannot write the report to {path}: {error.strerror}") from error
