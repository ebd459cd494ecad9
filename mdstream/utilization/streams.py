"""Of each stream: where its batches waited, what a message cost, and what that allows."""

from __future__ import annotations

import polars as pl

from mdstream.reading.attach import Attachment
from mdstream.utilization.values import ENDING, Values, rounded, spent

_STAGES = {
    "receive": ("first_recv_ts", "submit_ts"),
    "queue": ("submit_ts", "start_ts"),
    "decode": ("start_ts", "end_ts"),
    "commit": ("end_ts", "commit_ts"),
}
"""Where a batch is from when to when: filling its slab, waiting for a worker, with it, waiting for its turn
and going into the frames."""
_LEAST_SAMPLES = 3
_LEAST_TOLD = 1_000
"""Messages from which on their cost is more than a tick or two of the kernel's clock of CPU time."""
_LEAST_MESSAGES = 10_000
_LEAST_BATCH = 1_000
"""With fewer messages a batch, what a message costs tells nothing of what many would cost."""


def streams_of(run: Attachment, processes: pl.DataFrame) -> dict[str, Values]:
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
        "messages_per_batch": rounded(messages / batches.height),
        "stages_ms": {
            stage: {
                "mean": rounded((spans[stage] * spans["messages"]).sum() / max(1, messages)),
                "p50": rounded(spans[stage].quantile(0.5)),
                "p99": rounded(spans[stage].quantile(0.99)),
            }
            for stage in _STAGES
        },
    }
    return {**found, **_costs(batches, samples, processes, workers, cores)}


def _costs(
    batches: pl.DataFrame, samples: pl.DataFrame, processes: pl.DataFrame, workers: int, cores: int
) -> Values:
    """What a message cost, from the second after the first ones came until the run ends: how processes
    start and drain is not in it.
    `untold` says why there is no model, if there is none.
    """
    short = {"untold": "messages came for too short a time"}
    flowing = samples.filter((pl.col("messages") > 0) & ~pl.col("state").cast(pl.String).is_in(ENDING))
    if flowing.height < _LEAST_SAMPLES:
        return short
    first, last = flowing.row(1, named=True), flowing.row(-1, named=True)
    messages = last["messages"] - first["messages"]
    cpu_s = spent(processes.filter(pl.col("ts").is_between(first["ts"], last["ts"])))
    wall_s = (last["ts"] - first["ts"]).total_seconds()
    if not cpu_s.get("feed"):  # sampled once in that time, which tells nothing
        return short
    done = batches.filter(pl.col("end_ts").is_between(first["ts"], last["ts"]))
    found: Values = {
        "messages_per_s": rounded(messages / wall_s),
        "feed_busy": rounded(100 * cpu_s.get("feed", 0.0) / wall_s),
    }
    if workers:
        found["workers_busy"] = rounded(100 * cpu_s.get("worker", 0.0) / wall_s / workers)
    if not messages:
        return found | short
    if messages < _LEAST_TOLD:
        return found | {"untold": "too few messages came"}
    feed = cpu_s.get("feed", 0.0) / messages * 1e9
    worker = cpu_s.get("worker", 0.0) / messages * 1e9
    found["feed_ns"] = rounded(feed)
    if workers:
        found["worker_ns"] = rounded(worker)
    else:  # decoding is the feed's: as much of its cost could be a worker's
        worker = min(feed, int(done["cpu_ns"].sum()) / messages)
        feed -= worker
    if messages < _LEAST_MESSAGES or not (feed and worker):
        return found | {"untold": "too few messages came"}
    if messages < _LEAST_BATCH * done.height:
        return found | {"untold": "batches are too small"}
    return found | {"model": model(feed, worker, workers, cores)}


def model(feed_ns: float, worker_ns: float, workers: int, cores: int) -> Values:
    """What a stream could do with the costs of a message as they are, were it alone on the machine.

    The feed is one process, and commits in order: 1/feed. Workers share theirs: n/worker. And no more can
    be spent than all cores have. One process that does both is taken to cost the sum, but it would hand
    nothing over: so `speedup` over it, and `efficiency`, that divided by the processes at it, are the most
    that they can be. Without workers, what one would bring is, as handing over will cost something.
    """

    def rate(count: int) -> float:
        if count == 0:
            return 1e9 / (feed_ns + worker_ns)
        return 1e9 * min(1 / feed_ns, count / worker_ns, cores / (feed_ns + worker_ns))

    speedup = rate(workers) / rate(0)
    return {
        "inline_per_s": rounded(rate(0)),
        "now_per_s": rounded(rate(workers)),
        "one_more_per_s": rounded(rate(workers + 1)),
        "speedup": rounded(speedup),
        "efficiency": rounded(speedup / min(cores, workers + 1)),
        "decode_share": rounded(worker_ns / (feed_ns + worker_ns)),
    }
