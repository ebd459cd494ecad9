"""The report of a run: queries on its telemetry frames, as plain values."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import Any

import orjson
import polars as pl
import polars.selectors as cs

from mdstream import utilization
from mdstream.engine.feed_process import FeedProcess
from mdstream.engine.supervisor import Supervisor
from mdstream.reading.attach import Attachment
from mdstream.store.rejects import reject_path
from mdstream.telemetry.metrics import group_values

_EVENTS_KEPT = 200
_NOTHING_OF_FRAMES: dict[str, Any] = {
    "frames": {},
    "cores": {"count": 0, "busy_mean": None, "by_core": []},
    "processes": [],
    "utilization": None,
    "events": [],
}
"""What a report has of a run whose frames were removed."""
_NOTHING_OF_RECORDER: dict[str, Any] = {
    "rows": None,
    "missed": None,
    "unstorable": None,
    "commits": None,
    "trouble": "the folder of the run was removed",
    "frames": {},
}
"""The same of its recorder."""


def build(supervisor: Supervisor) -> dict[str, Any]:
    """Return everything about a run that has ended, as plain values."""
    rows = supervisor.measurements.streams  # complete even if the frame had no room for its last rows
    streams = {
        name: _describe_stream(rows[name], record, supervisor)
        for name, record in supervisor.feeds.items()
        if name in rows
    }
    found = {
        "run": supervisor.run_id,
        "started": datetime.fromtimestamp(supervisor.started.wall / 1e9, UTC).isoformat(),
        "duration_s": (supervisor.ended.monotonic - supervisor.started.monotonic) / 1e9,
        "t_total_s": t_total_s(supervisor),
        "simulated": supervisor.config.simulated,
        "removed": str(supervisor.removed) if supervisor.removed is not None else None,
        "streams": streams,
        "recorded": _sum_recording(supervisor),
        "telemetry_rows_lost": supervisor.measurements.writer.lost,
        "python": platform.python_version(),
    }
    if supervisor.removed is not None:
        return {**found, **_NOTHING_OF_FRAMES}
    run = Attachment(supervisor.path)
    for name, stream in streams.items():
        if f"{name}.bars_1m" in run.frames:
            stream["bars"] |= _compare_bars(run, name)
    return {
        **found,
        "frames": {name: {"rows": run.rows(name)} for name in run.frames},
        "cores": _sum_cores(run),
        "processes": _sum_processes(run),
        "utilization": utilization.build(run),
        "events": _newest_events(run),
    }


def _newest_events(run: Attachment) -> list[dict[str, Any]]:
    """Return the newest events, oldest first."""
    frame = run.frame("telemetry.events").tail(_EVENTS_KEPT)
    return [
        {**event, "ts": event["ts"].isoformat(), "fields": orjson.loads(event["fields"])}
        for event in frame.with_columns(cs.categorical().cast(pl.String)).to_dicts()
    ]


def _sum_recording(supervisor: Supervisor) -> dict[str, Any] | None:
    """Return what the recorder brought into the store; None if the run was not recorded."""
    if supervisor.recorder is None:
        return None
    state = supervisor.recorder.state
    if supervisor.removed is not None:  # the recorder's numbers went with the folder
        return {"store": state.store, "whole": False, **_NOTHING_OF_RECORDER}
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
    """Return seconds of the first fetch cycle of all streams, from the first start to the last end."""
    firsts = [feed.cycles[1] for feed in supervisor.feeds.values() if 1 in feed.cycles]
    if not firsts:
        return None
    return (max(end for _, end in firsts) - min(start for start, _ in firsts)) / 1e9


def _describe_stream(row: dict[str, Any], feed: FeedProcess, supervisor: Supervisor) -> dict[str, Any]:
    """Return one stream's metrics of the last sample, and what only the supervisor knows."""
    rejects = reject_path(supervisor.config.rejects, supervisor.run_id, feed.stream)
    times = sorted((end - start) / 1e9 for start, end in feed.cycles.values())
    first = feed.cycles.get(1)
    found = {
        "state": feed.stage.label,
        "reason": feed.failure or None,
        **group_values(row),
        "symbols_failed": dict(sorted(feed.failed.items())),  # which ones and why, instead of how many
        "rejects_file": str(rejects) if rejects.exists() else None,
    }
    found["fetch"] |= {
        "t_stream_s": (first[1] - first[0]) / 1e9 if first else None,
        "t_stream_max_s": times[-1] if times else None,
    }
    return found


def _compare_bars(run: Attachment, stream: str) -> dict[str, Any]:
    """Compare minute bars built here with the service's; count the differing values by column."""
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


def _sum_cores(run: Attachment) -> dict[str, Any]:
    """Return the percentage that each core was busy over the run, and the mean."""
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


def _sum_processes(run: Attachment) -> list[dict[str, Any]]:
    frame = run.frame("telemetry.processes").with_columns(pl.col("role", "stream").cast(pl.String))
    by_process = (
        frame.group_by("role", "stream", "pid", maintain_order=True)
        .agg(pl.col("cpu_user_s").last() + pl.col("cpu_system_s").last(), pl.col("rss_bytes").max())
        .rename({"cpu_user_s": "cpu_s", "rss_bytes": "rss_max_bytes"})
    )
    return by_process.to_dicts()
