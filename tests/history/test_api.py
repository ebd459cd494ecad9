"""`mdstream.backfill` in programs with and without an event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mdstream
from mdstream.errors import ConfigError
from mdstream.history.status import Status
from tests.running import HANGING_S, simulator

INTERRUPTED = """
import asyncio, os, signal, threading
from mdstream.history.own_loop import run_blocking
cancelled = []
async def work():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        cancelled.append(True)
        raise
async def cell():
    run_blocking(work)
try:
    asyncio.new_event_loop().run_until_complete(cell())  # as a notebook does
except KeyboardInterrupt:
    print("interrupted", cancelled)
"""


@pytest.mark.cases("M9", "N2")
def test_a_backfill_runs_in_a_cell_of_a_notebook(tmp_path: Path) -> None:
    seen: set[str] = set()

    async def cell(data_url: str) -> Status:
        return mdstream.backfill(
            "stocks.bars",
            ["AAPL"],
            "2026-01-05",
            "2026-01-06",
            store=tmp_path,
            settings={"data_url": data_url, "backfill": {"workers": 1}},
            progress=lambda status: seen.add(threading.current_thread().name),
        )

    with simulator("--rate", "1") as sim:
        status = asyncio.run(cell(sim.data_url))
    assert status.complete
    assert status.stored > 0
    assert len(seen) == 1


@pytest.mark.cases("M9", "N2")
def test_an_error_of_a_backfill_reaches_the_cell(tmp_path: Path) -> None:
    async def cell() -> None:
        mdstream.backfill("stocks.nonsense", ["AAPL"], "2026-01-05", "2026-01-06", store=tmp_path)

    with pytest.raises(ConfigError):
        asyncio.run(cell())


@pytest.mark.cases("M9", "N2")
def test_an_interrupted_cell_ends_its_backfill() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=HANGING_S, check=False
    )
    assert done.stdout == "interrupted [True]\n", done.stderr
