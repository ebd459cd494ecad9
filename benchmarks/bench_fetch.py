"""How long does it take to fetch every symbol of every stream: one after another, or all at once?

The same requests go to the same simulator, which takes a fixed time for each:

    before     streams one after another, symbols one after another, over one kept-alive connection
    streams    streams at once, symbols one after another
    after      the engine: streams at once, symbols at once, rows in the frames at the end

`after` is the engine's own T_total, from the first request to the last committed row; the two others
only fetch and throw the bodies away. Repeats are interleaved; medians are shown.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

import mdstream
from mdstream.streams import STREAMS

SYMBOLS = 50
LATENCIES_MS = (20, 50, 100)
REPEATS = 3

Lists = dict[str, list[str]]


def symbol_lists(count: int) -> Lists:
    """So many symbols for each stream, of the form each stream has."""
    return {
        "stocks": [f"S{i}" for i in range(count)],
        "options": [f"AAPL261218C{100_000 + i * 1000:08d}" for i in range(count)],
        "crypto": [f"C{i}/USD" for i in range(count)],
        "news": [f"N{i}" for i in range(count)],
    }


@contextmanager
def simulator(latency_ms: float) -> Iterator[str]:
    """The simulator in a process of its own; its REST address."""
    command = [
        sys.executable, "-m", "mdstream", "simulate", "--port", "0", "--rate", "1",
        "--rate-limit", "1000000", "--latency", str(latency_ms),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"and (http://\S+) ", process.stdout.readline())
        assert found
        yield found[1]
    finally:
        process.terminate()
        process.communicate()


async def one_after_another(base: str, lists: Lists, streams_at_once: bool) -> float:
    """Seconds that today's loops take."""

    async def stream(session: aiohttp.ClientSession, name: str, symbols: list[str]) -> None:
        path = STREAMS[name].fetch.path.format(feed="us")
        for symbol in symbols:
            async with session.get(base + path, params={"symbols": symbol}) as response:
                assert response.status == 200
                await response.read()

    keys = {"APCA-API-KEY-ID": "benchmark", "APCA-API-SECRET-KEY": "benchmark"}
    async with aiohttp.ClientSession(headers=keys) as session:
        started = time.perf_counter()
        if streams_at_once:
            await asyncio.gather(*(stream(session, n, s) for n, s in lists.items()))
        else:
            for name, symbols in lists.items():
                await stream(session, name, symbols)
        return time.perf_counter() - started


def engine(base: str, lists: Lists) -> tuple[float, float, float]:
    """T_total of the engine's first cycle, and the longest and the sum of T_stream."""
    with tempfile.TemporaryDirectory() as folder, open("/dev/null", "w") as silent:
        settings: dict[str, Any] = {
            "data_url": base,
            "credentials": {"key_id": "benchmark", "secret_key": "benchmark"},
            "rejects": folder,
            "fetch": {"interval_s": 0, "budget_per_minute": 100_000},
            **{name: {"symbols": symbols} for name, symbols in lists.items()},
        }
        with mdstream.Engine(settings, log=silent) as running:
            deadline = time.monotonic() + 60
            while running.frame("telemetry.streams")["cycles"].tail(len(lists)).sum() < len(lists):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert running.report is not None
    times = [s["fetch"]["t_stream_s"] for s in running.report["streams"].values()]
    assert all(s["symbols_ok"] == SYMBOLS for s in running.report["streams"].values())
    return running.report["t_total_s"], max(times), sum(times)


def run() -> list[dict[str, Any]]:
    """Measure, print a table, and return the records."""
    lists = symbol_lists(SYMBOLS)
    records: list[dict[str, Any]] = []
    print(f"4 streams × {SYMBOLS} symbols; seconds, medians of {REPEATS}\n")
    headings = ("before", "streams", "after", "max", "sum")
    print(f"{'service takes':>14}" + "".join(f"{h:>9}" for h in headings) + f"{'faster':>9}")
    for latency in LATENCIES_MS:
        before, streams, after, longest, total = [], [], [], [], []
        with simulator(latency) as base:
            for _ in range(REPEATS):
                before.append(asyncio.run(one_after_another(base, lists, False)))
                streams.append(asyncio.run(one_after_another(base, lists, True)))
                t_total, t_max, t_sum = engine(base, lists)
                after.append(t_total)
                longest.append(t_max)
                total.append(t_sum)
        row = [statistics.median(v) for v in (before, streams, after, longest, total)]
        faster = f"{row[0] / row[2]:.0f}×"
        print(f"{latency:>11} ms" + "".join(f"{value:9.3f}" for value in row) + f"{faster:>9}")
        params = {"streams": 4, "symbols": SYMBOLS, "latency_ms": latency}
        for subject, values in (("before", before), ("streams", streams), ("after", after)):
            records.append(
                {"question": "fetch", "subject": subject, "params": params, "t_total_s": values}
            )
    return records
