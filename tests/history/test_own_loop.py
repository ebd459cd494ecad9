"""A backfill in a program with an event loop, such as a notebook: it works, and does not block the loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mdstream
from mdstream.errors import ConfigError
from mdstream.history.own_loop import run_apart, run_blocking
from mdstream.system import children
from tests.running import HANGING_S, RunningSimulator, simulator

pytestmark = pytest.mark.cases("N2", "M9")
HOUR = ("2026-01-05T15:00:00Z", "2026-01-05T15:10:00Z")


@pytest.fixture(scope="module")
def sim() -> Iterator[RunningSimulator]:
    with simulator("--rate", "1") as running:
        yield running


def settings(sim: RunningSimulator, workers: int = 0) -> dict[str, Any]:
    keys = {"key_id": "k", "secret_key": "s"}
    return {"data_url": sim.data_url, "credentials": keys, "backfill": {"workers": workers}}


def test_a_backfill_in_a_running_loop_works_as_without_one(sim: RunningSimulator, tmp_path: Path) -> None:
    async def cell() -> Any:
        return mdstream.backfill("stocks.trades", "AAPL", *HOUR, store=tmp_path, settings=settings(sim))

    status = asyncio.run(cell())
    assert status.complete
    assert status.stored == mdstream.scan("stocks.trades", tmp_path).collect().height > 0


def test_its_errors_are_those_of_a_backfill_without_a_loop(sim: RunningSimulator, tmp_path: Path) -> None:
    async def cell() -> None:
        with pytest.raises(ConfigError, match="capitals"):
            mdstream.backfill("stocks.trades", "aapl", *HOUR, store=tmp_path, settings=settings(sim))
        with pytest.raises(ConfigError, match="capitals"):
            await mdstream.backfill_async(
                "stocks.trades", "aapl", *HOUR, store=tmp_path, settings=settings(sim)
            )

    asyncio.run(cell())


BESIDE = """
import asyncio, sys, threading
import mdstream

where = {}
class Noting:
    def find_spec(self, name, path=None, target=None):
        where.setdefault(name, threading.current_thread() is threading.main_thread())
sys.meta_path.insert(0, Noting())

async def main():
    threads = set()
    status = await mdstream.backfill_async(
        "stocks.trades", "AAPL", START, END, store=STORE, settings=SETTINGS,
        progress=lambda status: threads.add(threading.current_thread() is threading.main_thread()),
    )
    assert status.complete, status
    assert threads == {True}, "progress is reported in the caller's loop"
    for module in ("mdstream.history.backfill", "mdstream.pool.pool", "aiohttp", "polars"):
        assert where.get(module) is not True, f"{module} was imported in the caller's loop"
    print("pool" if "mdstream.pool.pool" in where else "", status.stored)

asyncio.run(main())
"""


def test_it_imports_nothing_heavy_and_starts_nothing_in_the_callers_loop(
    sim: RunningSimulator, tmp_path: Path
) -> None:
    values = {
        "START": HOUR[0],
        "END": HOUR[1],
        "STORE": str(tmp_path),
        "SETTINGS": settings(sim, workers=2),
    }
    code = BESIDE
    for name, value in values.items():
        code = code.replace(name, repr(value))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGING_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pool ")


def test_a_cancelled_backfill_has_cleaned_up_when_its_caller_goes_on() -> None:
    cleaned: list[str] = []
    started = threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(HANGING_S)
        finally:
            await asyncio.sleep(0.1)
            cleaned.append(threading.current_thread().name)

    async def cell() -> None:
        task = asyncio.ensure_future(run_apart(work))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cleaned == ["own loop"]

    asyncio.run(cell())


def test_ctrl_c_in_a_notebook_cell_cancels_the_work_and_is_raised() -> None:
    cleaned: list[bool] = []

    async def work() -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await asyncio.sleep(HANGING_S)
            cleaned.append(False)
        finally:
            cleaned.append(True)

    async def cell() -> None:
        run_blocking(work)

    # Whoever starts the tests in the background may have them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(cell())
    finally:
        signal.signal(signal.SIGINT, before)
    assert cleaned == [True]


def test_two_threads_that_start_processes_leave_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    main, path = sys.modules["__main__"], sys.path

    def start() -> None:
        for _ in range(20):
            with children.protect_start(), children.without_script():
                time.sleep(0.001)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.modules["__main__"] is main
    assert sys.path is path
    assert "PYTHONSAFEPATH" not in os.environ
