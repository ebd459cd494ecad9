"""What does the engine's shape bring: one process that does everything, or feeds and pools?

Stocks, options, crypto and news, each as fast as the simulator sends it and TCP takes it, 20 messages a
payload; each message ends in a frame, bars and last values included:

    one process     four sessions and their pipelines on one loop, decoding inline
    feeds           a process a stream, decoding inline
    feeds + pools   the engine as it is: a process a stream, and workers

The same sessions, pipelines and kernels do the work in all. Measured is a stretch of seconds in the
middle. Then everything is drained: what was received must be committed to the last message, and no
connection may have been lost. The simulator is a process of its own, which sends the same 50,000 messages
of each stream again and again (news: a fiftieth of what the fastest other is sent); its CPU time is not
counted, though it needs its share of the cores. Where there are many cores, stocks, options and crypto have
one each, for one could not keep the engine busy.
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

from benchmarks.harness import (
    Case,
    Plan,
    Record,
    SubjectError,
    Table,
    answer,
    cell,
    end_when_told,
    once,
    simulator,
)
from mdstream.config import usable_cores

TAKES_S = (100.0, 20.0)
"""Seconds on 2 cores: all of it, and the quick part."""

TURNS = 3
WARM_S = 1.0
STRETCH_S = 3.0
QUICK_S = 1.5
PER_PAYLOAD = 20
STREAMS = ("stocks", "options", "crypto", "news")
SUBJECTS = ("one process", "feeds", "feeds + pools")
_MANY_CORES = 8
_PATIENCE_S = 60.0


class Watch:
    """Messages and CPU time of a stretch, which begins some time after all streams flow."""

    # The mutable state: when the streams flowed; the stretch's begin.

    def __init__(self, stretch_s: float) -> None:
        self._stretch_s = stretch_s
        self._flowed = 0.0
        self._began: tuple[float, float, int] | None = None
        self._deadline = time.monotonic() + _PATIENCE_S
        self.found: dict[str, float] = {}

    def look(self, committed: Sequence[int]) -> bool:
        """Take note of how many messages of each stream are committed; whether the stretch is over."""
        now = time.perf_counter()
        if not self._flowed:
            if all(committed):
                self._flowed = now
            elif time.monotonic() > self._deadline:
                raise SubjectError(f"no data on every stream after {_PATIENCE_S:.0f} s: {committed}")
            return False
        if self._began is None:
            if now - self._flowed >= WARM_S:
                self._began = now, _cpu_s(), sum(committed)
            return False
        began, cpu, first = self._began
        if now - began < self._stretch_s:
            return False
        messages = sum(committed) - first
        self.found = {
            "messages_per_s": messages / (now - began),
            "cpu_s_per_million": (_cpu_s() - cpu) / messages * 1e6,
        }
        return True


def _cpu_s() -> float:
    """CPU time of this process and all its children so far."""
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
    """The engine, with so many workers a stream (-1: the cores, shared out, less one for the feed)."""
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
        while not watch.look([state.committed()["committed"] for state in states]):
            time.sleep(0.01)
        latency = sum(state.histograms["latency"].astype("int64") for state in states)
    assert running.report is not None
    streams = running.report["streams"].values()
    assert not any(stream["reconnects"] or stream["restarts"] for stream in streams)
    lost = sum(s["messages"] - s["committed"] + s["in_flight"] for s in streams)
    return {**watch.found, **_percentiles(latency), "lost": float(lost)}


async def one_process(urls: Sequence[str], stretch_s: float) -> dict[str, float]:
    """All streams on one loop, decoding inline. SIGTERM cancels it."""
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
            while not watch.look([line.state.committed()["committed"] for line in lines]):
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
    names = plan.of(SUBJECTS, (SUBJECTS[0], SUBJECTS[-1]))
    cases = [Case("engine", name, sizes) for name in names]

    stretch_s = plan.of(STRETCH_S, QUICK_S)

    def measure(case: Case) -> dict[str, float]:
        flags = ("--rate", "0", "--messages-per-payload", str(PER_PAYLOAD))
        with contextlib.ExitStack() as stack:
            urls = [stack.enter_context(simulator(*flags))[0] for _ in range(simulators)]
            # News come from where others are sent, too: how many depends on these.
            urls = [urls[i % simulators] for i in range(len(STREAMS))]
            return once("benchmarks.bench_engine", case.subject, str(stretch_s), *urls)

    return plan.in_turns("engine", cases, measure, plan.of(TURNS, 1))


def tables(records: Sequence[Record]) -> list[Table]:
    """What to show of the records."""
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
    headings = ("", "M messages/s", "×", "CPU s a million", "p50 ms", "p99 ms", "lost")
    title = "Four streams flat out, from the socket to the frames"
    if (simulators := records[0]["params"].get("simulators", 1)) > 1:
        title += f", sent by {simulators} simulators"
    return [Table(title, headings, rows)]


def findings(records: Sequence[Record]) -> list[str]:
    """What the records say, in sentences."""
    by_subject = {r["subject"]: r for r in records}
    rates = {name: r["messages_per_s"] for name, r in by_subject.items()}
    one, feeds, pools = (rates.get(name) for name in SUBJECTS)
    lost = sum(r["spread"]["lost"][1] for r in records)
    told = [f"Feeds and pools carry {pools / 1e6:.1f} million messages/s"] if pools else []
    if feeds and pools:
        ranges = [by_subject[name]["spread"]["messages_per_s"] for name in SUBJECTS[1:]]
        told.append(
            f"feeds alone {feeds / 1e6:.1f} million, and as their turns overlap neither is surely faster"
            if max(least for least, _ in ranges) <= min(most for _, most in ranges)
            else f"{abs(pools / feeds - 1):.0%} {'more' if pools > feeds else 'less'} than feeds alone"
        )
    told += [
        f"{name} {rate / one:.1f} times what one process does"
        for name, rate in (("feeds", feeds), ("feeds and pools", pools))
        if one and rate
    ]
    turns = min(r["turns"] for r in records)
    told.append("measured once, which is rough" if turns == 1 else f"medians of {turns} turns")
    return [f"{', '.join(told)}. Lost: {lost:.0f}."]


if __name__ == "__main__":
    subject, seconds, *addresses = sys.argv[1:]
    if subject == "one process":
        import uvloop

        with contextlib.suppress(asyncio.CancelledError):
            answer(uvloop.run(one_process(addresses, float(seconds))))
    else:
        end_when_told()
        answer(engine(addresses, -1 if subject == "feeds + pools" else 0, float(seconds)))
