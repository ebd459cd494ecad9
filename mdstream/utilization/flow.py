"""The time in which messages came, all streams together."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from mdstream.reading.attach import Attachment
from mdstream.utilization.values import ENDING, SECOND, Values, foreign, rounded, spent

_NEVER = datetime.fromtimestamp(0, UTC)
_LEAST_SAMPLES = 2
_MANY_SAMPLES = 10
_WAITS = (
    pl.col("start_ts") - pl.col("submit_ts") + pl.col("commit_ts") - pl.col("end_ts")
).dt.total_nanoseconds() / 1e6
"""How long a batch waits, in ms: for a worker, and for its turn to be committed and that."""


def flow_of(run: Attachment, processes: pl.DataFrame) -> Values:
    """How busy everything was while messages came: what limits a run is seen there, not while it starts
    and ends. `share` is what of the engine's CPU time decoded and aggregated; the simulator is not the
    engine's. `waits_ms`: so long one of a hundred batches waits, or more, once it is received. Of a run
    in which hardly any came it is the whole; `told`: whether it is long enough to tell.
    """
    first, last, told = _while_messages_came(run)
    within = pl.col("ts").is_between(first, last)
    cores = run.frame("telemetry.cores").filter(within & (pl.col("ts") > first))
    count, seconds = cores["core"].n_unique(), (last - first).total_seconds()
    during = processes.filter(within)
    cpu_s = spent(during)
    engine = sum(value for role, value in cpu_s.items() if role != "simulator")
    decode = waits_ms = 0.0
    if "telemetry.batches" in run.frames:
        done = run.frame("telemetry.batches").filter(pl.col("end_ts").is_between(first, last))
        decode = int(done["cpu_ns"].sum()) / SECOND
        waits_ms = rounded(done.select(_WAITS.quantile(0.99)).item())
    busy, simulator = rounded(cores["busy_percent"].mean()), cpu_s.get("simulator", 0.0)
    return {
        "told": told,
        "seconds": rounded(seconds),
        "busy": busy,
        "simulator_busy": rounded(100 * simulator / seconds) if seconds else 0.0,
        "simulator_share": rounded(simulator / (engine + simulator)) if simulator else 0.0,
        "foreign": foreign(busy, count, seconds, engine + simulator),
        "engine_cpu_s": rounded(engine),
        "decode_s": rounded(decode),
        "waits_ms": waits_ms,
        "share": rounded(100 * decode / engine) if engine else 0.0,
    }


def _while_messages_came(run: Attachment) -> tuple[datetime, datetime, bool]:
    """The first sample that has seen messages come, the last one that has seen more of them before the run
    ends, and whether that, or the run, was long enough to tell anything.
    """
    going = ~pl.col("state").cast(pl.String).is_in(ENDING)
    samples = run.frame("telemetry.streams").filter(going).sort("ts")
    more = samples.filter(pl.col("messages").diff().over("stream") > 0)["ts"]
    every = run.frame("telemetry.cores")["ts"]
    if not every.len():  # telemetry found no room
        return _NEVER, _NEVER, False
    flowed = more.n_unique() > _LEAST_SAMPLES
    times = more if flowed else every
    return times.min(), times.max(), flowed or every.n_unique() >= _MANY_SAMPLES  # type: ignore[return-value]
