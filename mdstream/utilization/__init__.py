"""Utilization of a run: where its CPU time went and what limited it, from its telemetry frames.

    cores      how busy each core was ──────────────────────┐
    processes  CPU time, memory, switches of each process ──┤   over time, by role, by stage;
    machine    memory, network, switches ───────────────────┤─► a model; a sentence
    batches    when each batch passed each stage ───────────┘

The results are plain values, for a report that outlives the frames.
"""

from __future__ import annotations

import polars as pl

from mdstream.reading.attach import Attachment
from mdstream.utilization.flow import describe_flow
from mdstream.utilization.machine import Clock, describe_cores, describe_machine, describe_roles
from mdstream.utilization.sentence import describe_limit
from mdstream.utilization.streams import describe_streams, model_rates
from mdstream.utilization.values import Values

__all__ = ["Values", "build", "describe_limit", "model_rates"]


def build(run: Attachment) -> Values:
    """Return the utilization of a run until now. Lists over time have one value per `bin_s` seconds."""
    clock = Clock(run)
    frame = run.frame("telemetry.processes")
    processes = frame.with_columns(pl.col("role", "stream").cast(pl.String))
    cores, roles = describe_cores(run, clock), describe_roles(processes)
    found = {
        "seconds": clock.seconds,
        "bin_s": clock.bin_s,
        "cores": cores,
        "roles": roles,
        "busy_by_role": clock.sum_by_role(processes, pl.col("cpu_percent") / 100),
        "memory_by_role": clock.sum_by_role(processes, pl.col("rss_bytes")),
        "machine": describe_machine(run, clock),
        "streams": describe_streams(run, processes),
        "flow": describe_flow(run, processes),
    }
    return {**found, "limit": describe_limit(found)}
