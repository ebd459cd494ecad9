"""Where a run's CPU time went and what held it back: queries on its telemetry frames.

    cores      how busy each core was ────────────────┐
    processes  CPU time, memory, switches of each one ─┤   by time, by role, by stage;
    machine    memory, network, switches ──────────────┤─► a model; a sentence
    batches    when each one passed each station ──────┘

What comes out is plain values, for a report that outlives the frames.
"""

from __future__ import annotations

import polars as pl

from mdstream.reading.attach import Attachment
from mdstream.utilization.flow import flow_of
from mdstream.utilization.machine import Clock, cores_of, machine_of, roles_of
from mdstream.utilization.sentence import limit
from mdstream.utilization.streams import model, streams_of
from mdstream.utilization.values import Values

__all__ = ["Values", "build", "limit", "model"]


def build(run: Attachment) -> Values:
    """The utilization of a run, as it stands now. Lists over time have a value each `bin_s` seconds."""
    clock = Clock(run)
    frame = run.frame("telemetry.processes")
    processes = frame.with_columns(pl.col("role", "stream").cast(pl.String))
    cores, roles = cores_of(run, clock), roles_of(processes)
    found = {
        "seconds": clock.seconds,
        "bin_s": clock.bin_s,
        "cores": cores,
        "roles": roles,
        "busy_by_role": clock.by_role(processes, pl.col("cpu_percent") / 100),
        "memory_by_role": clock.by_role(processes, pl.col("rss_bytes")),
        "machine": machine_of(run, clock),
        "streams": streams_of(run, processes),
        "flow": flow_of(run, processes),
    }
    return {**found, "limit": limit(found)}
