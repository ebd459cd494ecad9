"""The time in which messages arrived, all streams together."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from mdstream.reading.attach import Attachment
from mdstream.utilization.values import ENDING, SECOND, Values, cpu_seconds, foreign_share, shorten

_NEVER = datetime.fromtimestamp(0, UTC)
_LEAST_SAMPLES = 2
_MANY_SAMPLES = 10
_WAITS = (
    pl.col("start_ts") - pl.col("submit_ts") + pl.col("commit_ts") - pl.col("end_ts")
).dt.total_nanoseconds() / 1e6
"""How long a batch waits, in ms: for a worker, and for its turn and the commit."""


def describe_flow(run: Attachment, processes: pl.DataFrame) -> Values:
    """Return how busy everything was while messages arrived: start and end do not show what limits a run.

    If hardly any arrived, the values cover the whole run. The keys, beside obvious ones:

        conclusive  whether the time is long enough to say what limits the run
        foreign     share of the busy time that belongs to other programs
        compiling   share of the busy time that compiled the decoders
        share       percent of the engine's CPU time that decodes and aggregates; excludes the simulator
        waits_ms    99th percentile of the time that batches wait after they are received
    """
    first, last, conclusive = _find_flow(run)
    within = pl.col("ts").is_between(first, last)
    cores = run.frame("telemetry.cores").filter(within & (pl.col("ts") > first))
    count, seconds = cores["core"].n_unique(), (last - first).total_seconds()
    during = processes.filter(within)
    cpu_s = cpu_seconds(during)
    engine = sum(value for role, value in cpu_s.items() if role not in ("simulator", "compiler"))
    decode = waits_ms = 0.0
    if "telemetry.batches" in run.frames:
        done = run.frame("telemetry.batches").filter(pl.col("end_ts").is_between(first, last))
        decode = int(done["cpu_ns"].sum()) / SECOND
        waits_ms = shorten(done.select(_WAITS.quantile(0.99)).item())
    busy = shorten(cores["busy_percent"].mean())
    simulator, compiler = cpu_s.get("simulator", 0.0), cpu_s.get("compiler", 0.0)
    busy_s = busy / 100 * count * seconds
    return {
        "conclusive": conclusive,
        "seconds": shorten(seconds),
        "busy": busy,
        "simulator_busy": shorten(100 * simulator / seconds) if seconds else 0.0,
        "simulator_share": shorten(simulator / (engine + simulator)) if simulator else 0.0,
        "foreign": foreign_share(busy_s, engine + simulator + compiler),
        "compiling": shorten(min(1.0, compiler / busy_s)) if busy_s else 0.0,
        "engine_cpu_s": shorten(engine),
        "decode_s": shorten(decode),
        "waits_ms": waits_ms,
        "share": shorten(100 * decode / engine) if engine else 0.0,
    }


def _find_flow(run: Attachment) -> tuple[datetime, datetime, bool]:
    """Return the first and the last sample that show new messages, and whether that time is conclusive.

    If there are too few such samples, return the first and last sample of the run.
    """
    going = ~pl.col("state").cast(pl.String).is_in(ENDING)
    samples = run.frame("telemetry.streams").filter(going).sort("ts")
    more = samples.filter(pl.col("messages").diff().over("stream") > 0)["ts"]
    every = run.frame("telemetry.cores")["ts"]
    if not every.len():  # telemetry had no room
        return _NEVER, _NEVER, False
    flowed = more.n_unique() > _LEAST_SAMPLES
    times = more if flowed else every
    return times.min(), times.max(), flowed or every.n_unique() >= _MANY_SAMPLES  # type: ignore[return-value]
