"""Queries for views of a running engine: plain rows from its telemetry frames."""

from __future__ import annotations

import time
from typing import Any

import polars as pl
import polars.selectors as cs

from mdstream.reading.attach import Attachment

_RATE_OVER_S = 3
_RECENT_BATCHES = 200


def elapsed_s(run: Attachment) -> float:
    """Return seconds since the run started, by the monotonic clock of this machine; 0 before its processes
    start.
    """
    started = run.info.get("started_monotonic")
    return time.monotonic() - float(started) if started is not None else 0.0


def streams_now(run: Attachment) -> list[dict[str, Any]]:
    """Return the last row of each stream in `telemetry.streams`, with its rate.

    `messages_per_s` covers the last few seconds; it is None or NaN if a stream has a single sample.
    """
    frame = run.frame("telemetry.streams")
    query = (
        frame.tail((_RATE_OVER_S + 1) * frame["stream"].n_unique())
        .lazy()
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


def rates_over_time(run: Attachment, seconds: int) -> dict[str, list[float]]:
    """Return the messages of each of the last `seconds` (or fewer, if the run is young), by stream."""
    frame = run.frame("telemetry.streams")
    ts = pl.col("ts")
    recent = frame.lazy().filter(ts > ts.max() - pl.duration(seconds=seconds + 1)).collect()
    return {
        str(stream): rows["messages"].diff().drop_nulls().clip(0).cast(pl.Float64).to_list()
        for (stream,), rows in recent.group_by("stream", maintain_order=True)
    }


def cores_now(run: Attachment) -> list[float]:
    """Return how busy each core was in the last second, in percent."""
    frame = run.frame("telemetry.cores")
    last = frame.filter(pl.col("ts") == pl.col("ts").last()).sort("core")
    return last["busy_percent"].to_list()


def messages_per_batch(run: Attachment) -> float | None:
    """Return the mean size of the newest batches, in messages; None before the first batch."""
    if "telemetry.batches" not in run.frames:  # each feed creates its part of the frame when it starts
        return None
    batches = run.frame("telemetry.batches").tail(_RECENT_BATCHES)
    return int(batches["messages"].sum()) / batches.height if batches.height else None


def recent_events(run: Attachment, count: int) -> list[dict[str, Any]]:
    """Return the newest `count` rows of `telemetry.events`, oldest first."""
    events = run.frame("telemetry.events").tail(count)
    return events.with_columns(cs.categorical().cast(pl.String)).to_dicts()
