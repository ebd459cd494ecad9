"""What do the engine's processes gain: one process for everything, or feeds and pools?

Stocks, options, crypto and news arrive as fast as the simulator sends and TCP accepts them, 20 messages per
payload. Each message ends in a frame, with bars and last values:

    one process     four sessions and their pipelines on one loop, decoding inline
    feeds           one process per stream, decoding inline
    feeds + pools   the engine as it is: one process per stream, and workers

All subjects use the same sessions, pipelines and kernels. The measurement covers some seconds in the
middle. Then the subject drains: it must have committed every received message and lost no connection.
The simulator is a separate process that repeats the same 50,000 messages of each stream (news at a fiftieth
of the rate of the fastest stream). Its CPU time is not counted, but it needs part of the cores. On a
machine with many cores, stocks, options and crypto get one simulator each, because one cannot keep the
engine busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import psutil

from benchmarks.harness import Case, Plan, Record, Table, cell
from benchmarks.subjects import SubjectError, answer, exit_on_sigterm, run_once, start_simulator
from mdstream.config import usable_cores

TAKES_S = (100.0, 20.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

TURNS = 3
WARM_S = 1.0
STRETCH_S = 3.0
QUICK_S = 1.5
PER_PAYLOAD = 20
STREAMS = ("stocks", "options", "crypto", "news")
SUBJECTS = ("one process", "feeds", "feeds + pools")
_MANY_CORES = 8
_TIMEOUT_S = 60.0


class Watch:
    """The messages and CPU time of an interval, which starts `WARM_S` after every stream has data."""

    # Written by `update` only.
    _first_data: float
    """When every stream had data; 0: not yet."""
    _start: tuple[float, float, int] | None
    """The start of the interval: time, CPU time and messages."""
    found: dict[str, float]

    def __init__(self, stretch_s: float) -> None:
        self._stretch_s = stretch_s
        self._first_data = 0.0
        self._start = None
        self._deadline = time.monotonic() + _TIMEOUT_S
        self.found = {}

    def update(self, committed: Sequence[int]) -> bool:
        """Record the committed messages of each stream; return whether the interval is over."""
        now = time.perf_counter()
        if not self._first_data:
            if all(committed):
                self._first_data = now
            elif time.monotonic() > self._deadline:
                raise SubjectError(f"no data on every stream after {_TIMEOUT_S:.0f} s: {committed}")
            return False
        if self._start is None:
            if now - self._first_data >= WARM_S:
                self._start = now, _cpu_s(), sum(committed)
            return False
        start, cpu, first = self._start
        if now - start < self._stretch_s:
            return False
        messages = sum(committed) - first
        self.found = {
            "messages_per_s": messages / (now - start),
            "cpu_s_per_million": (_cpu_s() - cpu) / messages * 1e6,
        }
        return True


def _cpu_s() -> float:
    """Return the CPU seconds of this process and all its children so far."""
    here = psutil.Process()
    total = 0.0
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _settings(urls: Sequence[str], folder: str, workers: int) -> dict[str, Any]:
    own: dict[str, dict[str, Any]] = {
        "stocks": {"channels": ["trades", "quotes"]},
        "crypto": {"channels": ["trades", "quotes", "orderbooks"]},
        "options": {"symbols": ["AAPL261218C00230000", "SPY261218C00595000"]},
        "news": {},
    }
    return {
        "streams": list(STREAMS),
        "stream_url": urls[0],
        "credentials": {"key_id": "benchmark", "secret_key": "benchmark"},
        "rejects": folder,
        "workers": workers,
        "fetch": {"interval_s": 0},
        **{name: {**own[name], "stream_url": url} for name, url in zip(STREAMS, urls, strict=True)},
    }


def engine(urls: Sequence[str], workers: int, stretch_s: float) -> dict[str, float]:
    """Measure the engine with `workers` per stream (-1: its share of the cores, less one for the feed)."""
    import mdstream

    watch = Watch(stretch_s)
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as silent,
        mdstream.Engine(_settings(urls, folder, workers), log=silent) as running,
    ):
        from mdstream.frames.rundir import state_path
        from mdstream.telemetry.state import FeedState

        states = [FeedState(state_path(running.attachment.path, name)) for name in STREAMS]
        while not watch.update([state.read_committed()["committed"] for state in states]):
            time.sleep(0.01)
        latency = sum(state.histograms["latency"].astype("int64") for state in states)
    assert running.report is not None
    streams = running.report["streams"].values()
    assert not any(stream["reconnects"] or stream["restarts"] for stream in streams)
    lost = sum(s["messages"] - s["committed"] + s["in_flight"] for s in streams)
    return {**watch.found, **_percentiles(latency), "lost": float(lost)}


async def one_process(urls: Sequence[str], stretch_s: float) -> dict[str, float]:
    """Measure all streams on one loop, decoding inline. SIGTERM cancels it."""
    from benchmarks.handoff_line import USUAL_KB, Line
    from mdstream.frames.rundir import RunDirectory
    from mdstream.pool.pool import WorkerPool
    from mdstream.session.stream import StreamSession
    from mdstream.session.target import Target
    from mdstream.settings import from_mapping
    from mdstream.streams import STREAMS as SPECS
    from mdstream.wire.subscription import Subscriptions

    here = asyncio.current_task()
    assert here is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, here.cancel)
    watch, pool = Watch(stretch_s), WorkerPool(0, 60.0)
    await pool.start()
    with tempfile.TemporaryDirectory() as folder, RunDirectory() as run:
        config = from_mapping(_settings(urls, folder, 0))
        lines = [Line(run, name, pool, USUAL_KB) for name in STREAMS]
        sessions, running = [], []
        for name, line in zip(STREAMS, lines, strict=True):
            stream = config.stream(name)
            subscriptions = Subscriptions(wanted={c: set(stream.symbols) for c in stream.channels})
            session = StreamSession(
                Target.of(SPECS[name], stream, config.connection(name)),
                subscriptions,
                line.pipeline,
                lambda text: None,
                lambda channel: None,
            )
            sessions.append(session)
            running.append(asyncio.ensure_future(session.run()))
        try:
            while not watch.update([line.state.read_committed()["committed"] for line in lines]):
                await asyncio.sleep(0.01)
            latency = sum(line.state.histograms["latency"].astype("int64") for line in lines)
            assert not any(session.reconnects for session in sessions)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for line in lines:
                await line.pipeline.drain()
        lost = 0
        for line in lines:
            accounts = line.state.values()
            lost += accounts["rejected"] + accounts["in_flight"]
            await line.close()
    await pool.close()
    return {**watch.found, **_percentiles(latency), "lost": float(lost)}


def _percentiles(latency: Any) -> dict[str, float]:
    from mdstream.telemetry.histogram import percentile_ms

    return {"p50_ms": percentile_ms(latency, 0.5) or 0.0, "p99_ms": percentile_ms(latency, 0.99) or 0.0}


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure everything."""
    simulators = len(STREAMS) - 1 if usable_cores() >= _MANY_CORES else 1
    sizes = {"streams": len(STREAMS), "per_payload": PER_PAYLOAD, "simulators": simulators}
    names = plan.choose(SUBJECTS, (SUBJECTS[0], SUBJECTS[-1]))
    cases = [Case("engine", name, sizes) for name in names]

    stretch_s = plan.choose(STRETCH_S, QUICK_S)

    def measure(case: Case) -> dict[str, float]:
        flags = ("--rate", "0", "--messages-per-payload", str(PER_PAYLOAD))
        with contextlib.ExitStack() as stack:
            urls = [stack.enter_context(start_simulator(*flags))[0] for _ in range(simulators)]
            # News shares a simulator with another stream, because its rate depends on that stream.
            urls = [urls[i % simulators] for i in range(len(STREAMS))]
            return run_once("benchmarks.bench_engine", case.subject, str(stretch_s), *urls)

    return plan.in_turns("engine", cases, measure, plan.choose(TURNS, 1))


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records."""
    rows = [
        (
            r["subject"],
            cell(r, "messages_per_s", 1e6, 2),
            f"{r['messages_per_s'] / records[0]['messages_per_s']:.2f}",
            cell(r, "cpu_s_per_million", 1, 2),
            cell(r, "p50_ms"),
            cell(r, "p99_ms"),
            f"{r['lost']:.0f}",
        )
        for r in records
    ]
    headings = ("", "M messages/s", "×", "CPU s per million", "p50 ms", "p99 ms", "lost")
    title = "Four streams at full speed, from the socket to the frames"
    if (simulators := records[0]["params"].get("simulators", 1)) > 1:
        title += f", sent by {simulators} simulators"
    return [Table(title, headings, rows)]


def findings(records: Sequence[Record]) -> list[str]:
    """Return sentences that summarize the records."""
    by_subject = {r["subject"]: r for r in records}
    rates = {name: r["messages_per_s"] for name, r in by_subject.items()}
    one, feeds, pools = (rates.get(name) for name in SUBJECTS)
    lost = sum(r["spread"]["lost"][1] for r in records)
    sentences = [f"Feeds with pools process {pools / 1e6:.1f} million messages/s."] if pools else []
    if feeds and pools:
        ranges = [by_subject[name]["spread"]["messages_per_s"] for name in SUBJECTS[1:]]
        sentences.append(
            f"Feeds alone process {feeds / 1e6:.1f} million; turns overlap, so neither is certainly faster."
            if max(least for least, _ in ranges) <= min(most for _, most in ranges)
            else f"That is {abs(pools / feeds - 1):.0%} {'more' if pools > feeds else 'less'} "
            "than feeds alone."
        )
    sentences += [
        f"{name} process {rate / one:.1f} times as much as one process."
        for name, rate in (("Feeds", feeds), ("Feeds with pools", pools))
        if one and rate
    ]
    turns = min(r["turns"] for r in records)
    sentences.append("Measured once: rough." if turns == 1 else f"Medians of {turns} turns.")
    return [f"{' '.join(sentences)} Lost messages: {lost:.0f}."]


if __name__ == "__main__":
    subject, seconds, *addresses = sys.argv[1:]
    if subject == "one process":
        import uvloop

        with contextlib.suppress(asyncio.CancelledError):
            answer(uvloop.run(one_process(addresses, float(seconds))))
    else:
        exit_on_sigterm()
        answer(engine(addresses, -1 if subject == "feeds + pools" else 0, float(seconds)))
