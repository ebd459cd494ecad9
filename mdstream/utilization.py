"""Where a run's CPU time went and what held it back: queries on its telemetry frames.

    cores      how busy each core was ────────────────┐
    processes  CPU time, memory, switches of each one ─┤   by time, by role, by stage;
    machine    memory, network, switches ──────────────┤─► a model; a sentence
    batches    when each one passed each station ──────┘

What comes out is plain values, for a report that outlives the frames.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl

from mdstream.frames.attach import Attachment

_BINS = 240
"""Points of time that are kept; a longer run has wider ones."""
_SECOND = 1_000_000_000
_STAGES = {
    "receive": ("first_recv_ts", "submit_ts"),
    "queue": ("submit_ts", "start_ts"),
    "decode": ("start_ts", "end_ts"),
    "commit": ("end_ts", "commit_ts"),
}
"""Where a batch is from when to when: filling its slab, waiting for a worker, with it, waiting for its turn
and going into the frames."""
_LEAST_SAMPLES = 2
_MANY_SAMPLES = 10
_LEAST_MESSAGES = 10_000
_LEAST_BATCH = 1_000
"""With fewer messages a batch, what a message costs tells nothing of what many would cost."""
_MUCH = 0.25
_FULL = 85.0
"""Percent from which on something counts as used up."""

Values = dict[str, Any]


def build(run: Attachment) -> Values:
    """The utilization of a run, as it stands now. Lists over time have a value each `bin_s` seconds."""
    clock = _Clock(run)
    processes = _processes(run)
    streams = _streams(run, processes)
    cores = _cores(run, clock)
    roles = _roles(processes)
    found = {
        "seconds": clock.seconds,
        "bin_s": clock.bin_s,
        "cores": cores,
        "roles": roles,
        "busy_by_role": clock.by_role(processes, pl.col("cpu_percent") / 100),
        "memory_by_role": clock.by_role(processes, pl.col("rss_bytes")),
        "machine": _machine(run, clock),
        "streams": streams,
        "flow": _flow(run, processes),
    }
    ours = sum(row["cpu_s"] for row in roles)
    found["foreign"] = _foreign(cores["busy"], cores["count"], clock.seconds, ours)
    return {**found, "limit": limit(found)}


class _Clock:
    """Time since the first sample, in bins."""

    def __init__(self, run: Attachment) -> None:
        cores = run.frame("telemetry.cores")
        times = cores["ts"].to_physical()
        self._first = int(times.min() or 0)  # type: ignore[arg-type]
        self.seconds = (int(times.max() or 0) - self._first) / _SECOND  # type: ignore[arg-type]
        self.bin_s = max(1, -(-int(self.seconds) // _BINS))
        self.bins = max(1, round(self.seconds / self.bin_s))
        self._sampled = set(self.binned(cores)["bin"])

    def binned(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`frame` with its bin, that of the second before each sample, which is what a sample tells of;
        without the first one, which covers no time yet.
        """
        since = pl.col("ts").to_physical() - self._first
        middle = (since - _SECOND // 2) // (self.bin_s * _SECOND)
        return frame.filter(since > 0).with_columns(
            middle.cast(pl.Int64).clip(0, self.bins - 1).alias("bin")
        )

    def listed(self, frame: pl.DataFrame, value: str) -> list[float]:
        """A value a bin. A bin that no sample fell in is told by the next: it came late, and covers it."""
        known = dict(zip(frame["bin"].to_list(), frame[value].to_list(), strict=True))
        values, told_by = [], self.bins
        for index in reversed(range(self.bins)):
            told_by = index if index in self._sampled else told_by
            values.append(_rounded(known.get(told_by, 0.0)))
        return values[::-1]

    def by_role(self, processes: pl.DataFrame, what: pl.Expr) -> dict[str, list[float]]:
        """The sum of a value over the processes of each role, a list over time."""
        sums = (
            self.binned(processes)
            .group_by("role", "bin", "ts")
            .agg(what.sum().alias("value"))
            .group_by("role", "bin")
            .agg(pl.col("value").mean())
        )
        roles = sums["role"].unique().sort().to_list()
        return {r: self.listed(sums.filter(pl.col("role") == r), "value") for r in roles}


def _processes(run: Attachment) -> pl.DataFrame:
    frame = run.frame("telemetry.processes")
    return frame.with_columns(pl.col("role", "stream").cast(pl.String))


def _cores(run: Attachment, clock: _Clock) -> Values:
    """How busy the cores were: in the mean, and each over time."""
    frame = clock.binned(run.frame("telemetry.cores"))
    by_core = frame.group_by("core", "bin").agg(pl.col("busy_percent").mean())
    cores = frame["core"].unique().sort().to_list()
    means = {name: _rounded(frame[f"{name}_percent"].mean()) for name in ("busy", "user", "system")}
    return {
        "count": len(cores),
        **means,
        "idle": _rounded(100.0 - means["busy"]),
        "by_core": [
            clock.listed(by_core.filter(pl.col("core") == core), "busy_percent") for core in cores
        ],
    }


def _roles(processes: pl.DataFrame) -> list[Values]:
    """A row a role and stream: its CPU time since it began, its memory, its switches."""
    last = processes.group_by("role", "stream", "pid", maintain_order=True).agg(
        pl.col("cpu_user_s", "cpu_system_s", "voluntary_switches", "involuntary_switches").last(),
        pl.col("rss_bytes").max(),
    )
    table = (
        last.group_by("role", "stream", maintain_order=True)
        .agg(pl.len().alias("processes"), pl.all().exclude("pid").sum())
        .with_columns(pl.sum_horizontal("cpu_user_s", "cpu_system_s").alias("cpu_s"))
    )
    whole = table["cpu_s"].sum() or 1.0
    return table.with_columns((pl.col("cpu_s") / whole).alias("share")).to_dicts()


def _machine(run: Attachment, clock: _Clock) -> Values:
    """Levels of memory, and rates a second of what came by network and of switches, over time."""
    took = pl.col("ts").to_physical().diff() / _SECOND
    levels, rates = ("memory_used_bytes", "shm_bytes"), ("net_recv_bytes", "switches")
    frame = clock.binned(run.frame("telemetry.machine").with_columns(pl.col(rates).diff() / took))
    if not frame.height:
        return {}
    means = frame.group_by("bin").agg(pl.col(*levels, *rates).mean())
    return {name: clock.listed(means, name) for name in (*levels, *rates)}


# -- streams


def _streams(run: Attachment, processes: pl.DataFrame) -> dict[str, Values]:
    if "telemetry.batches" not in run.frames:
        return {}
    batches = run.frame("telemetry.batches").with_columns(pl.col("stream").cast(pl.String))
    samples = run.frame("telemetry.streams").with_columns(pl.col("stream").cast(pl.String))
    names = samples["stream"].unique(maintain_order=True).to_list()
    cores = run.frame("telemetry.cores")["core"].n_unique()
    return {
        name: _stream(
            batches.filter(pl.col("stream") == name),
            samples.filter(pl.col("stream") == name),
            processes.filter(pl.col("stream") == name),
            cores,
        )
        for name in names
        if batches.filter(pl.col("stream") == name).height
    }


def _stream(
    batches: pl.DataFrame, samples: pl.DataFrame, processes: pl.DataFrame, cores: int
) -> Values:
    """Of one stream: where its batches waited, what a message cost, and what that allows."""
    messages = int(batches["messages"].sum())
    spans = batches.select(
        pl.col("messages"),
        *(
            ((pl.col(end) - pl.col(begin)).dt.total_nanoseconds() / 1e6).alias(stage)
            for stage, (begin, end) in _STAGES.items()
        ),
    )
    workers = int(samples["pool_size"].max() or 0)  # type: ignore[arg-type]
    found: Values = {
        "workers": workers,
        "batches": batches.height,
        "messages": messages,
        "messages_per_batch": _rounded(messages / batches.height),
        "stages_ms": {
            stage: {
                "mean": _rounded((spans[stage] * spans["messages"]).sum() / max(1, messages)),
                "p50": _rounded(spans[stage].quantile(0.5)),
                "p99": _rounded(spans[stage].quantile(0.99)),
            }
            for stage in _STAGES
        },
    }
    return {**found, **_costs(batches, samples, processes, workers, cores)}


def _costs(
    batches: pl.DataFrame, samples: pl.DataFrame, processes: pl.DataFrame, workers: int, cores: int
) -> Values:
    """What a message cost, from the second after the first ones came: how processes start is not in it."""
    flowing = samples.filter(pl.col("messages") > 0)
    if flowing.height < 3:
        return {}
    first, last = flowing.row(1, named=True), flowing.row(-1, named=True)
    messages = last["messages"] - first["messages"]
    cpu_s = _spent(processes.filter(pl.col("ts").is_between(first["ts"], last["ts"])))
    wall_s = (last["ts"] - first["ts"]).total_seconds()
    if not cpu_s.get("feed"):  # sampled once in that time, which tells nothing
        return {}
    done = batches.filter(pl.col("end_ts").is_between(first["ts"], last["ts"]))
    found: Values = {
        "messages_per_s": _rounded(messages / wall_s),
        "feed_busy": _rounded(100 * cpu_s.get("feed", 0.0) / wall_s),
    }
    if workers:
        found["workers_busy"] = _rounded(100 * cpu_s.get("worker", 0.0) / wall_s / workers)
    if not messages:
        return found
    feed = cpu_s.get("feed", 0.0) / messages * 1e9
    worker = cpu_s.get("worker", 0.0) / messages * 1e9
    found["feed_ns"] = _rounded(feed)
    if workers:
        found["worker_ns"] = _rounded(worker)
    large = done.height and messages / done.height >= _LEAST_BATCH
    if messages >= _LEAST_MESSAGES and large and workers and feed and worker:
        found["model"] = model(feed, worker, workers, cores)
    return found


def model(feed_ns: float, worker_ns: float, workers: int, cores: int) -> Values:
    """What a stream could do with the costs of a message as they are, were it alone on the machine.

    The feed is one process, and commits in order: 1/feed. Workers share theirs: n/worker. And no more can
    be spent than all cores have. `efficiency` is the speed-up over one process that does both, divided by
    the processes that are at it.
    """

    def rate(count: int) -> float:
        if count == 0:
            return 1e9 / (feed_ns + worker_ns)
        return 1e9 * min(1 / feed_ns, count / worker_ns, cores / (feed_ns + worker_ns))

    speedup = rate(workers) / rate(0)
    return {
        "inline_per_s": _rounded(rate(0)),
        "now_per_s": _rounded(rate(workers)),
        "one_more_per_s": _rounded(rate(workers + 1)),
        "speedup": _rounded(speedup),
        "efficiency": _rounded(speedup / min(cores, workers + 1)),
    }


# -- the time in which messages came, all streams together


def _flow(run: Attachment, processes: pl.DataFrame) -> Values:
    """How busy everything was while messages came: what limits a run is seen there, not while it starts
    and ends. `share` is what of the engine's CPU time decoded and aggregated; the simulator is not the
    engine's. Of a run in which hardly any came it is the whole; `told`: whether it is long enough to tell.
    """
    first, last, told = _while_messages_came(run)
    within = pl.col("ts").is_between(first, last)
    cores = run.frame("telemetry.cores").filter(within & (pl.col("ts") > first))
    count, seconds = cores["core"].n_unique(), (last - first).total_seconds()
    during = processes.filter(within)
    cpu_s = _spent(during)
    engine = sum(value for role, value in cpu_s.items() if role != "simulator")
    decode = 0.0
    if "telemetry.batches" in run.frames:
        done = run.frame("telemetry.batches").filter(pl.col("end_ts").is_between(first, last))
        decode = int(done["cpu_ns"].sum()) / _SECOND
    busy, simulator = _rounded(cores["busy_percent"].mean()), cpu_s.get("simulator", 0.0)
    return {
        "told": told,
        "seconds": _rounded(seconds),
        "busy": busy,
        "simulator_busy": _rounded(100 * simulator / seconds) if seconds else 0.0,
        "simulator_share": _rounded(simulator / (engine + simulator)) if simulator else 0.0,
        "foreign": _foreign(busy, count, seconds, engine + simulator),
        "engine_cpu_s": _rounded(engine),
        "decode_s": _rounded(decode),
        "share": _rounded(100 * decode / engine) if engine else 0.0,
    }


def _while_messages_came(run: Attachment) -> tuple[datetime, datetime, bool]:
    """The first sample that has seen messages come, the last one that has seen more of them, and whether
    that, or the run, was long enough to tell anything.
    """
    samples = run.frame("telemetry.streams").sort("ts")
    more = samples.filter(pl.col("messages").diff().over("stream") > 0)["ts"]
    every = run.frame("telemetry.cores")["ts"]
    flowed = more.n_unique() > _LEAST_SAMPLES
    times = more if flowed else every
    return times.min(), times.max(), flowed or every.n_unique() >= _MANY_SAMPLES  # type: ignore[return-value]


def _spent(processes: pl.DataFrame) -> dict[str, float]:
    """CPU seconds of each role from the first to the last sample of each of its processes."""
    names = ("cpu_user_s", "cpu_system_s")
    spent = (
        processes.group_by("role", "pid")
        .agg(*(pl.col(name).last() - pl.col(name).first() for name in names))
        .group_by("role")
        .agg(pl.sum_horizontal(*names).sum().alias("cpu_s"))
    )
    return dict(spent.iter_rows())


def _foreign(busy: float, cores: int, seconds: float, ours: float) -> float:
    """The share of the cores' busy time that no process of this run had; `ours` is what they had."""
    busy_s = busy / 100 * cores * seconds
    return _rounded(max(0.0, 1 - ours / busy_s)) if busy_s else 0.0


# -- the sentence


def limit(found: Values) -> str:
    """What held this run back, in a sentence."""
    flow, streams = found["flow"], found["streams"]
    if not flow["told"]:
        return "Messages came for too short a time to tell what limits this run."
    if flow["busy"] >= _FULL:
        return _by_cores(found)
    busiest = max(streams, key=lambda s: streams[s].get("workers_busy", 0.0), default="")
    if (
        busiest
        and streams[busiest]["workers"]
        and streams[busiest].get("workers_busy", 0.0) >= _FULL
    ):
        return _by_workers(busiest, streams[busiest])
    busiest = max(streams, key=lambda s: streams[s].get("feed_busy", 0.0), default="")
    if busiest and streams[busiest].get("feed_busy", 0.0) >= _FULL:
        return (
            f"The feed of {busiest} limits this run: its one process was busy "
            f"{streams[busiest]['feed_busy']:.0f}% of the time, so more workers would bring nothing."
        )
    if flow["simulator_busy"] >= _FULL:
        return (
            "The simulator limits this run: its one process was busy "
            f"{flow['simulator_busy']:.0f}% of the time and may have sent less than it was asked for."
        )
    return (
        f"Nothing here limits this run: while messages came the cores were idle {100 - flow['busy']:.0f}% "
        "of the time, and the engine took what came as it came."
    )


def _by_cores(found: Values) -> str:
    cores, flow = found["cores"], found["flow"]
    share = flow["simulator_share"]
    other = (
        f", {100 * share:.0f}% of the run's CPU time being the simulator's" if share >= 0.05 else ""
    )
    if flow["foreign"] >= _MUCH:
        return (
            f"Other programs limit this run: {cores['count']} cores were busy {flow['busy']:.0f}% of the "
            f"time, {100 * flow['foreign']:.0f}% of that with what is not this run's."
        )
    return (
        f"The cores limit this run: {cores['count']} were busy {flow['busy']:.0f}% of the time{other}; "
        "more workers would bring nothing, more cores would."
    )


def _by_workers(name: str, stream: Values) -> str:
    text = (
        f"The workers of {name} limit this run: its {stream['workers']} decoded "
        f"{stream['workers_busy']:.0f}% of the time"
    )
    if (estimate := stream.get("model")) is None:
        return text + "."
    gain = 100 * (estimate["one_more_per_s"] / estimate["now_per_s"] - 1)
    return f"{text}; one more would bring some {gain:.0f}%."


def _rounded(value: Any) -> float:
    """Three decimals are enough for people, and keep reports small."""
    return round(float(value or 0.0), 3)
