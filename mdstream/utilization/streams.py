"""Where the batches of each stream waited, what a message cost, and what throughput that allows."""

from __future__ import annotations

import polars as pl

from mdstream.reading.attach import Attachment
from mdstream.utilization.values import ENDING, Values, cpu_seconds, shorten

_STAGES = {
    "receive": ("first_recv_ts", "submit_ts"),
    "queue": ("submit_ts", "start_ts"),
    "decode": ("start_ts", "end_ts"),
    "commit": ("end_ts", "commit_ts"),
}
"""Stages of a batch, each with its start and end: filling the slab, waiting for a worker, being decoded,
waiting for its turn and being committed.
"""
_LEAST_SAMPLES = 3
_LEAST_MEASURABLE = 1_000
"""With fewer messages, their cost is close to the resolution of the kernel's clock of CPU time."""
_LEAST_MESSAGES = 10_000
_LEAST_BATCH = 1_000
"""With fewer messages per batch, the cost of one says nothing about that of many."""


def describe_streams(run: Attachment, processes: pl.DataFrame) -> dict[str, Values]:
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


def _stream(batches: pl.DataFrame, samples: pl.DataFrame, processes: pl.DataFrame, cores: int) -> Values:
    """Return where the batches of a stream waited, what a message cost, and what that allows.

    `workers` is the most that the stream had at a time. Their number may follow the load.
    """
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
        "messages_per_batch": shorten(messages / batches.height),
        "stages_ms": {
            stage: {
                "mean": shorten((spans[stage] * spans["messages"]).sum() / max(1, messages)),
                "p50": shorten(spans[stage].quantile(0.5)),
                "p99": shorten(spans[stage].quantile(0.99)),
            }
            for stage in _STAGES
        },
    }
    return {**found, **_costs(batches, samples, processes, workers, cores)}


def _costs(
    batches: pl.DataFrame, samples: pl.DataFrame, processes: pl.DataFrame, workers: int, cores: int
) -> Values:
    """Return what a message cost, from the second after the first messages until the run ends.

    This leaves out the start and end of processes. `workers_busy` is the percentage of the time in which
    there were workers. If there is no model, `no_model` says why.
    """
    short = {"no_model": "messages arrived for too short a time"}
    flowing = samples.filter((pl.col("messages") > 0) & ~pl.col("state").cast(pl.String).is_in(ENDING))
    if flowing.height < _LEAST_SAMPLES:
        return short
    first, last = flowing.row(1, named=True), flowing.row(-1, named=True)
    messages = last["messages"] - first["messages"]
    cpu_s = cpu_seconds(processes.filter(pl.col("ts").is_between(first["ts"], last["ts"])))
    wall_s = (last["ts"] - first["ts"]).total_seconds()
    if not cpu_s.get("feed"):  # sampled only once in that time
        return short
    done = batches.filter(pl.col("end_ts").is_between(first["ts"], last["ts"]))
    found: Values = {
        "messages_per_s": shorten(messages / wall_s),
        "feed_busy": shorten(100 * cpu_s.get("feed", 0.0) / wall_s),
    }
    if existed := flowing["pool_size"][2:].mean():
        found["workers_busy"] = shorten(100 * cpu_s.get("worker", 0.0) / wall_s / existed)
    if not messages:
        return found | short
    if messages < _LEAST_MEASURABLE:
        return found | {"no_model": "too few messages arrived"}
    feed = cpu_s.get("feed", 0.0) / messages * 1e9
    worker = cpu_s.get("worker", 0.0) / messages * 1e9
    found["feed_ns"] = shorten(feed)
    if workers:
        found["worker_ns"] = shorten(worker)
    # A worker could take over what the feed decoded itself.
    feeds = processes.filter(pl.col("role").cast(pl.String) == "feed")["pid"].unique().to_list()
    inline = done.filter(pl.col("worker").is_in(feeds))["cpu_ns"].sum()
    taken = min(feed, int(inline) / messages)
    feed, worker = feed - taken, worker + taken
    if messages < _LEAST_MESSAGES or not (feed and worker):
        return found | {"no_model": "too few messages arrived"}
    if messages < _LEAST_BATCH * done.height:
        return found | {"no_model": "batches are too small"}
    return found | {"model": model_rates(feed, worker, workers, cores)}


def model_rates(feed_ns: float, worker_ns: float, workers: int, cores: int) -> Values:
    """Return the rates that a stream could reach alone on the machine, at the measured costs.

    The feed is one process and commits in order, so its limit is 1/feed. Workers share their cost:
    n/worker. All processes together cannot use more than all cores. A single process that does both is
    assumed to cost the sum. Because it needs no hand-off, `speedup` over it is an upper bound, and so is
    `efficiency` (the speedup per process). Without workers, the rate with one is an upper bound, too.
    """

    def rate(count: int) -> float:
        if count == 0:
            return 1e9 / (feed_ns + worker_ns)
        return 1e9 * min(1 / feed_ns, count / worker_ns, cores / (feed_ns + worker_ns))

    speedup = rate(workers) / rate(0)
    return {
        "inline_per_s": shorten(rate(0)),
        "now_per_s": shorten(rate(workers)),
        "one_more_per_s": shorten(rate(workers + 1)),
        "speedup": shorten(speedup),
        "efficiency": shorten(speedup / min(cores, workers + 1)),
        "decode_share": shorten(worker_ns / (feed_ns + worker_ns)),
    }
