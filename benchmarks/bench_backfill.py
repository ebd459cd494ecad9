"""How long does a history take: mdstream's backfill, or alpaca-py's client?

The trades of some symbols, a day of each, from the same simulator, which has its answers ready:

    alpaca-py          its client, symbol after symbol, and `.df`: a DataFrame in memory
    alpaca-py-threads  the same, with a thread a symbol, eight at a time
    mdstream           `mdstream backfill`: all in a store on disk, sorted and compressed, at the end

The clients' rate does not depend on how much it is, and they are left out of the largest case, which would
take them a minute each. Each is a process that starts, does this and ends; its start is counted.
`peak_rss_mb` is the most that it and its children had at a time, `peak_pss_mb` the same with pages that
several share counted once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil

from benchmarks.harness import (
    Answer,
    Case,
    Plan,
    Record,
    SubjectError,
    Table,
    cell,
    present,
    simulator,
    started,
)

TAKES_S = (125.0, 20.0)
"""Seconds on 2 cores: all of it, and the quick part."""

SUBJECTS = ("alpaca-py", "alpaca-py-threads", "mdstream")
DAY = datetime(2026, 1, 5, tzinfo=UTC)
ROWS_A_SYMBOL = 86_400
"""The simulator has a trade a second."""

TURNS = 1
MOST_OF_CLIENTS = 10
"""Symbols that the clients are given at most."""
_THREADS = 8
_SAMPLE_S = 0.05
_KEYS = {"APCA_API_KEY_ID": "benchmark", "APCA_API_SECRET_KEY": "benchmark"}


def symbols(count: int) -> list[str]:
    return [f"S{i}" for i in range(count)]


def alpaca_py(base: str, count: int, threads: int) -> None:
    """A subject: all of it in DataFrames."""
    import pandas as pd
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockTradesRequest

    client = StockHistoricalDataClient("benchmark", "benchmark", url_override=base)
    end = DAY + timedelta(days=1) - timedelta(microseconds=1)

    def fetch(symbol: str) -> Any:
        wanted = StockTradesRequest(symbol_or_symbols=symbol, start=DAY, end=end)
        return client.get_stock_trades(wanted).df  # type: ignore[union-attr]

    with ThreadPoolExecutor(threads) as pool:
        whole = pd.concat(pool.map(fetch, symbols(count)))
    assert len(whole) == count * ROWS_A_SYMBOL, len(whole)


def _command(subject: str, base: str, count: int, store: str) -> list[str]:
    if subject == "mdstream":
        return [
            sys.executable,
            "-m",
            "mdstream",
            "backfill",
            "stocks.trades",
            "--symbols",
            ",".join(symbols(count)),
            "--start",
            f"{DAY:%Y-%m-%d}",
            "--end",
            f"{DAY:%Y-%m-%d}",
            "--store",
            store,
            "--data-url",
            base,
            "--json",
        ]
    return [sys.executable, "-m", "benchmarks.bench_backfill", subject, base, str(count)]


def measured(command: Sequence[str]) -> dict[str, float]:
    """Run a subject: seconds, its CPU seconds with those of its children, the most memory at a time."""
    before, began = os.times(), time.perf_counter()
    rss = pss = 0
    with started(*command, environment=_KEYS) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            now = _memory(watched)
            rss, pss = max(rss, now[0]), max(pss, now[1])
            time.sleep(_SAMPLE_S)
        seconds = time.perf_counter() - began
    if process.returncode:
        raise SubjectError(f"{command[2:4]} ended with {process.returncode}: see above")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "cpu_s": cpu, "peak_rss_mb": rss / 1e6, "peak_pss_mb": pss / 1e6}


def _memory(process: psutil.Process) -> tuple[int, int]:
    """RSS and PSS of a process and its children, in bytes."""
    rss = pss = 0
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
        for each in (process, *process.children(recursive=True)):
            found = each.memory_full_info()
            rss, pss = rss + found.rss, pss + found.pss
    return rss, pss


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure every subject."""
    sizes = plan.of((2, 10, 60), (2,))
    here = present(
        plan, plan.of(SUBJECTS, ("alpaca-py", "mdstream")), dict.fromkeys(SUBJECTS[:2], "alpaca")
    )
    cases = [
        Case("backfill", name, {"symbols": size})
        for size in sizes
        for name in here
        if name == "mdstream" or size <= MOST_OF_CLIENTS
    ]
    flags = ("--rate", "1", "--rate-limit", "1000000")
    with simulator(*flags) as (_, base), tempfile.TemporaryDirectory() as folder:
        # What the service would look up, the simulator makes up, once.
        for name in here:
            size = max(case.params["symbols"] for case in cases if case.subject == name)
            plan.say("backfill", 0.0, f"the simulator prepares {size} symbols for {name}")
            if name != "alpaca-py-threads":
                measured(_command(name, base, size, f"{folder}/first"))
        stores = iter(range(1_000))

        def measure(case: Case) -> Answer:
            size = case.params["symbols"]
            found = measured(_command(case.subject, base, size, f"{folder}/{next(stores)}"))
            return {"messages_per_s": size * ROWS_A_SYMBOL / found["seconds"], **found}

        return plan.in_turns("backfill", cases, measure, TURNS, (0.4, 1.0))


def tables(records: Sequence[Record]) -> list[Table]:
    """What to show of the records."""
    rows = []
    for r in records:
        theirs = [x for x in records if x["subject"] == "alpaca-py"]
        same = next((x for x in theirs if x["params"] == r["params"]), None)
        base = same or (theirs or [r])[-1]
        rows.append(
            (
                f"{r['params']['symbols']} symbols, {r['params']['symbols'] * ROWS_A_SYMBOL:,} rows",
                r["subject"],
                cell(r, "messages_per_s", 1e3, 0),
                cell(r, "seconds", digits=1),
                f"{r['messages_per_s'] / base['messages_per_s']:.1f}×{'' if same else ' *'}",
                cell(r, "cpu_s", digits=1),
                cell(r, "peak_rss_mb", digits=0),
                cell(r, "peak_pss_mb", digits=0),
            )
        )
    headings = ("", "", "thousand rows/s", "seconds", "× alpaca-py", "CPU s", "peak RSS, MB", "PSS, MB")
    title = "A day of trades, from the service to where it is used"
    if any(row[4].endswith("*") for row in rows):
        most = max(r["params"]["symbols"] for r in records if r["subject"] == "alpaca-py")
        title += f" (*: beside alpaca-py's rate with {most} symbols, as it was given no more)"
    return [Table(title, headings, rows)]


if __name__ == "__main__":
    alpaca_py(sys.argv[2], int(sys.argv[3]), _THREADS if sys.argv[1].endswith("threads") else 1)
