"""Do workers follow the load: a day in miniature, from silence to 20,000 messages/s a stream and back?

The engine runs as it is, with two streams; the simulator is beside it on the same cores. Each row is a
stretch of `STRETCH_S` seconds: the rate at which messages were committed, the workers at its end, and the
latencies of the messages of that stretch alone. At the end everything must be committed, in order.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Case, Plan, Record, Table, cell, record
from benchmarks.subjects import SubjectError, answer, exit_on_sigterm, run_once, start_simulator

TAKES_S = (140.0, 45.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

DAY_S = 120.0
QUICK_S = 30.0
STRETCH_S = 4.0
STREAMS = ("stocks", "crypto")
RATE = 20_000
"""Messages/s of each stream at noon."""
MESSAGES_PER_PAYLOAD = 1
MOST_P99_MS = 20.0
_START_S = 60.0


def follow(url: str, day_s: float) -> dict[str, Any]:
    """Run the engine for a day; return a sample of each stretch, and what was lost or out of order."""
    import mdstream
    from mdstream.frames.rundir import state_path
    from mdstream.telemetry.histogram import percentile_ms
    from mdstream.telemetry.state import FeedState

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silent:
        settings: dict[str, Any] = {
            "streams": list(STREAMS),
            "stream_url": url,
            "data_url": url.replace("ws", "http", 1),
            "credentials": {"key_id": "benchmark", "secret_key": "benchmark"},
            "rejects": folder,
            "fetch": {"interval_s": 0},
        }
        with mdstream.Engine(settings, log=silent) as running:
            states = [FeedState(state_path(running.attachment.path, name)) for name in STREAMS]

            def sample() -> tuple[float, int, Any]:
                committed = sum(int(state.read_committed()["committed"]) for state in states)
                latency: Any = sum(state.histograms["latency"].astype("int64") for state in states)
                return time.monotonic(), committed, latency

            deadline = time.monotonic() + _START_S
            while not (before := sample())[1]:
                if time.monotonic() > deadline:
                    raise SubjectError(f"no data after {_START_S:.0f} s")
                time.sleep(0.05)
            begun = before[0]
            stretches: list[dict[str, float]] = []
            while before[0] - begun < day_s:
                time.sleep(max(0.0, begun + STRETCH_S * (len(stretches) + 1) - time.monotonic()))
                now = sample()
                taken = now[2] - before[2]
                stretches.append(
                    {
                        "messages_per_s": (now[1] - before[1]) / (now[0] - before[0]),
                        "workers": sum(int(state["pool_size"]) for state in states),
                        **{f"p{p}_ms": percentile_ms(taken, p / 100) or 0.0 for p in (50, 99)},
                    }
                )
                before = now
            misplaced = sum(
                int((frame["recv_ts"].diff().dt.total_nanoseconds() < 0).sum() or 0)
                for name in STREAMS
                for frame in (running.frame(f"{name}.trades"), running.frame(f"{name}.quotes"))
            )
        assert running.report is not None
        streams = running.report["streams"].values()
        lost = sum(s["messages"] - s["committed"] for s in streams)
        changes = sum(s["pool"]["changes"] for s in streams)
    return {"stretches": stretches, "lost": lost, "misplaced": misplaced, "changes": changes}


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure everything."""
    day_s = plan.choose(DAY_S, QUICK_S)
    plan.show_progress("day", 0.0, f"{day_s:.0f} s")
    flags = ("--rate", str(RATE), "--day", str(day_s), "--streams", ",".join(STREAMS))
    with start_simulator(*flags, "--messages-per-payload", str(MESSAGES_PER_PAYLOAD)) as (url, *_):
        found = run_once("benchmarks.bench_day", url, str(day_s))
    whole = {name: float(found[name]) for name in ("lost", "misplaced", "changes")}
    return [
        record(Case("day", "mdstream", {"second": round(number * STRETCH_S)}), [{**stretch, **whole}])
        for number, stretch in enumerate(found["stretches"])
    ]


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the table of the records."""
    rows = [
        (
            str(r["params"]["second"]),
            cell(r, "messages_per_s", digits=0),
            cell(r, "workers", digits=0),
            cell(r, "p50_ms", digits=2),
            cell(r, "p99_ms", digits=2),
        )
        for r in records
    ]
    return [Table("A day in miniature", ("from second", "messages/s", "workers", "p50 ms", "p99 ms"), rows)]


def findings(records: Sequence[Record]) -> list[str]:
    """Return sentences that summarize the records."""
    if not records:
        return []
    most, workers = max(r["p99_ms"] for r in records), max(r["workers"] for r in records)
    end = records[-1]
    if workers:
        decoded = f"up to {workers:.0f} workers decoded, after {end['changes']:.0f} changes"
    else:
        decoded = "the feeds decoded all of it, and no worker was needed"
    peak = max(r["messages_per_s"] for r in records)
    return [
        f"The rate went up to {peak:,.0f} messages/s and back; {decoded}.",
        f"{end['lost']:.0f} messages were lost, and {end['misplaced']:.0f} rows out of order.",
        f"The p99 of a stretch was at most {most:.1f} ms"
        + (f", more than the {MOST_P99_MS:.0f} ms aimed at." if most > MOST_P99_MS else "."),
    ]


if __name__ == "__main__":
    exit_on_sigterm()
    address, seconds = sys.argv[1:]
    answer(follow(address, float(seconds)))
