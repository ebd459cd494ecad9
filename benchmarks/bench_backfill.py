"""How long does a download of history take: `mdstream backfill` and alpaca-py's client.

Each subject downloads one day of trades of some symbols from the same simulator, which has prepared its
answers:

    alpaca-py          its client, symbol after symbol, and `.df`: a DataFrame in memory
    alpaca-py-threads  the same, with a thread for each symbol, at most eight at a time
    mdstream           `mdstream backfill`: a sorted and compressed store on disk

The rate of alpaca-py does not depend on the number of symbols. The largest case, which would take it more
than a minute, leaves it out. Each subject is a process that starts, downloads and exits; its start counts.
`peak_rss_mb` is the peak memory of the process and its children. `peak_pss_mb` is the same, but counts
shared pages once.
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

from benchmarks.harness import Answer, Case, Plan, Record, Table, cell, select_installed
from benchmarks.subjects import SubjectError, run_process, start_simulator

TAKES_S = (125.0, 20.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

SUBJECTS = ("alpaca-py", "alpaca-py-threads", "mdstream")
DAY = datetime(2026, 1, 5, tzinfo=UTC)
ROWS_A_SYMBOL = 86_400
"""The simulator has one trade per second."""

TURNS = 1
MAX_CLIENT_SYMBOLS = 10
"""The most symbols that alpaca-py downloads."""
_THREADS = 8
_SAMPLE_S = 0.05
_KEYS = {"APCA_API_KEY_ID": "benchmark", "APCA_API_SECRET_KEY": "benchmark"}


def symbols(count: int) -> list[str]:
    return [f"S{i}" for i in range(count)]


def alpaca_py(base: str, count: int, threads: int) -> None:
    """Download all trades with alpaca-py into a DataFrame."""
    import pandas as pd
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockTradesRequest

    client = StockHistoricalDataClient("benchmark", "benchmark", url_override=base)
    end = DAY + timedelta(days=1) - timedelta(microseconds=1)

    def fetch(symbol: str) -> Any:
        request = StockTradesRequest(symbol_or_symbols=symbol, start=DAY, end=end)
        return client.get_stock_trades(request).df  # type: ignore[union-attr]

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


def measure_command(command: Sequence[str]) -> dict[str, float]:
    """Run a subject; return its seconds, CPU seconds (children included) and peak memory."""
    before, start = os.times(), time.perf_counter()
    rss = pss = 0
    with run_process(*command, environment=_KEYS) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            now = _read_memory(watched)
            rss, pss = max(rss, now[0]), max(pss, now[1])
            time.sleep(_SAMPLE_S)
        seconds = time.perf_counter() - start
    if process.returncode:
        raise SubjectError(f"{command[2:4]} failed with exit code {process.returncode}: see above")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "cpu_s": cpu, "peak_rss_mb": rss / 1e6, "peak_pss_mb": pss / 1e6}


def _read_memory(process: psutil.Process) -> tuple[int, int]:
    """Return RSS and PSS of a process and its children, in bytes."""
    rss = pss = 0
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just exited
        for each in (process, *process.children(recursive=True)):
            found = each.memory_full_info()
            rss, pss = rss + found.rss, pss + found.pss
    return rss, pss


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure every subject."""
    sizes = plan.choose((2, 10, 60), (2,))
    here = select_installed(
        plan, plan.choose(SUBJECTS, ("alpaca-py", "mdstream")), dict.fromkeys(SUBJECTS[:2], "alpaca")
    )
    cases = [
        Case("backfill", name, {"symbols": size})
        for size in sizes
        for name in here
        if name == "mdstream" or size <= MAX_CLIENT_SYMBOLS
    ]
    flags = ("--rate", "1", "--rate-limit", "1000000")
    with start_simulator(*flags) as (_, base), tempfile.TemporaryDirectory() as folder:
        # The simulator generates its answers once, before the measurement.
        for name in here:
            size = max(case.params["symbols"] for case in cases if case.subject == name)
            plan.show_progress("backfill", 0.0, f"the simulator prepares {size} symbols for {name}")
            if name != "alpaca-py-threads":
                measure_command(_command(name, base, size, f"{folder}/first"))
        stores = iter(range(1_000))

        def measure(case: Case) -> Answer:
            size = case.params["symbols"]
            found = measure_command(_command(case.subject, base, size, f"{folder}/{next(stores)}"))
            return {"messages_per_s": size * ROWS_A_SYMBOL / found["seconds"], **found}

        return plan.in_turns("backfill", cases, measure, TURNS, (0.4, 1.0))


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records."""
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
    title = "Download of one day of trades"
    if any(row[4].endswith("*") for row in rows):
        most = max(r["params"]["symbols"] for r in records if r["subject"] == "alpaca-py")
        title += f" (*: compared with alpaca-py's rate with {most} symbols, its largest case)"
    return [Table(title, headings, rows)]


if __name__ == "__main__":
    alpaca_py(sys.argv[2], int(sys.argv[3]), _THREADS if sys.argv[1].endswith("threads") else 1)
