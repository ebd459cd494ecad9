"""How long does it take to fetch every symbol of every stream: one after another, and all at once?

The same engine fetches the same symbols from the same simulator, which takes a fixed time for each answer:

    before     streams one after another, an engine for each, and one request at a time
    streams    all streams at once, with one request at a time for each
    after      all streams and symbols at once

T_total is the engine's own figure, from the first request to the last committed row; for `before` it is the
sum over its engines. No figure includes the start of processes. `before` and `streams` are measured once,
because the simulator determines their time; `after` is measured more often. The tables show medians.

One after another takes streams × symbols × the service's time; all at once would take that time once. The
last column is computed, not measured: the time of these requests, one per symbol, when the service allows
200 requests per minute. With such a limit the engine puts many symbols into one request.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import mdstream
from benchmarks.harness import Case, Plan, Record, Table, cell
from benchmarks.subjects import start_simulator

TAKES_S = (145.0, 13.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

SIZES = ((4, 50, 20), (4, 50, 50), (1, 50, 20), (4, 100, 20))
"""Streams, symbols of each, and the service's ms per answer."""
TURNS = 2
AT_ONCE = 64
"""Most open requests of a stream: the engine's default."""
SLOW = 0.7
"""Share of the benchmark's time that `before` and `streams` take."""
RATE_LIMIT = 200
"""Requests per minute that the service's free plan allows."""

Lists = dict[str, list[str]]


def symbol_lists(count: int) -> Lists:
    """Return `count` symbols for each stream, in the stream's own format."""
    return {
        "stocks": [f"S{i}" for i in range(count)],
        "options": [f"AAPL261218C{100_000 + i * 1000:08d}" for i in range(count)],
        "crypto": [f"C{i}/USD" for i in range(count)],
        "news": [f"N{i}" for i in range(count)],
    }


def engine(base: str, lists: Lists, concurrency: int) -> dict[str, float]:
    """Run an engine's first cycle with `concurrency` requests of a stream at a time.

    Return T_total, and the maximum and the sum of T_stream.
    """
    with tempfile.TemporaryDirectory() as folder, open("/dev/null", "w") as silent:
        settings: dict[str, Any] = {
            "streams": list(lists),
            "data_url": base,
            "credentials": {"key_id": "benchmark", "secret_key": "benchmark"},
            "rejects": folder,
            "fetch": {"interval_s": 0, "budget_per_minute": 1_000_000, "concurrency": concurrency},
            **{name: {"symbols": symbols} for name, symbols in lists.items()},
        }
        with mdstream.Engine(settings, log=silent) as running:
            deadline = time.monotonic() + 60
            while running.frame("telemetry.streams")["fetch_cycles"].tail(len(lists)).sum() < len(lists):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert running.report is not None
    streams = running.report["streams"]
    assert all(streams[name]["symbols_ok"] == len(each) for name, each in lists.items())
    times = [stream["fetch"]["t_stream_s"] for stream in streams.values()]
    return {"t_total_s": running.report["t_total_s"], "max_s": max(times), "sum_s": sum(times)}


def one_after_another(base: str, lists: Lists) -> dict[str, float]:
    """Return the same for a sequence of engines, one for each stream."""
    each = [engine(base, {name: symbols}, 1)["t_total_s"] for name, symbols in lists.items()]
    return {"t_total_s": sum(each), "max_s": max(each), "sum_s": sum(each)}


def run(plan: Plan) -> list[Record]:
    """Measure everything."""
    sizes = plan.choose(SIZES, SIZES[2:3])
    latencies = sorted({latency for _, _, latency in sizes})
    with contextlib.ExitStack() as stack:
        bases = {
            latency: stack.enter_context(
                start_simulator("--rate", "1", "--rate-limit", "1000000", "--latency", str(latency))
            )[1]
            for latency in latencies
        }

        def measure(case: Case) -> dict[str, float]:
            base, every = bases[case.params["latency_ms"]], symbol_lists(case.params["symbols"])
            lists = dict(list(every.items())[: case.params["streams"]])
            if case.subject == "before":
                return one_after_another(base, lists)
            return engine(base, lists, 1 if case.subject == "streams" else AT_ONCE)

        def cases(*subjects: str) -> list[Case]:
            return [
                Case("fetch", subject, {"streams": n, "symbols": symbols, "latency_ms": latency})
                for n, symbols, latency in sizes
                for subject in subjects
            ]

        slow = plan.in_turns("fetch", cases("before", "streams"), measure, 1, (0.0, SLOW))
        ours = plan.in_turns("fetch", cases("after"), measure, plan.choose(TURNS, 1), (SLOW, 1.0))
    return [r for pair, after in zip(_by_two(slow), ours, strict=True) for r in (*pair, after)]


def _by_two(records: Sequence[Record]) -> list[Sequence[Record]]:
    return [records[i : i + 2] for i in range(0, len(records), 2)]


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records: one row for each size."""
    rows = []
    for before, streams, after in zip(records[::3], records[1::3], records[2::3], strict=True):
        sizes = before["params"]
        requests = sizes["streams"] * sizes["symbols"]
        rows.append(
            (
                f"{sizes['streams']} × {sizes['symbols']}, {sizes['latency_ms']} ms",
                *(cell(r, "t_total_s", digits=3) for r in (before, streams, after)),
                cell(after, "max_s", digits=3),
                cell(after, "sum_s", digits=3),
                f"{before['t_total_s'] / after['t_total_s']:.0f}×",
                f"{requests}×",
                f"{requests * 60 / RATE_LIMIT:.0f}",
            )
        )
    headings = (
        "streams × symbols, service",
        "before",
        "streams",
        "after",
        "max",
        "sum",
        "faster",
        "ideal",
        f"at {RATE_LIMIT} per minute",
    )
    return [Table("Seconds until every symbol is fetched", headings, rows)]


def findings(records: Sequence[Record]) -> list[str]:
    """Return sentences that summarize the records."""
    sizes = [tuple(records[i : i + 3]) for i in range(0, len(records), 3)]
    before, streams, after = max(sizes, key=lambda each: each[0]["t_total_s"] / each[2]["t_total_s"])
    where, ours = before["params"], after["t_total_s"]
    count = "1 stream" if where["streams"] == 1 else f"{where['streams']} streams"
    return [
        f"{count} of {where['symbols']} symbols at {where['latency_ms']} ms: T_total "
        f"{ours:.2f} s, {before['t_total_s'] / ours:.0f} times faster than one after another and "
        f"{streams['t_total_s'] / ours:.0f} times faster than streams at once; the longest stream took "
        f"{after['max_s']:.2f} s, the sum of all {after['sum_s']:.2f} s."
    ]
