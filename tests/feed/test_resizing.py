"""The number of a feed's workers changes while data flows. Nothing is lost, doubled or reordered."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from mdstream.pool import crew
from mdstream.reading.attach import attach
from mdstream.streams import STREAMS
from tests.feed.test_pipeline import COUNT, get_counts, make_mixed_payloads
from tests.piping import Payload, Rig, fingerprint, rig
from tests.running import HANGING_S, until

MOST = 3
SIZES = (2, 0, 1, 3, 1, 0)

Disturb = Callable[[Rig], Awaitable[None]]


async def feed_until_done(r: Rig, payloads: list[Payload], disturbance: asyncio.Task[None]) -> None:
    """Feed a part of the payloads before and after each change, and all until the disturbance is over."""
    for start in range(0, len(payloads), 20):
        while not disturbance.done() and start > len(payloads) * (r.pool._generation + 1) / (
            len(SIZES) + 1
        ):
            await asyncio.sleep(0.01)
        await r.feed(payloads[start : start + 20])
        if not disturbance.done():
            await asyncio.sleep(0.01)
    await asyncio.wait_for(disturbance, HANGING_S)
    disturbance.result()


async def resize_often(r: Rig) -> None:
    for size in SIZES:
        await r.pool.resize(size)
        await asyncio.sleep(0.02)


async def run(stream: str, folder: Path, disturb: Disturb | None) -> tuple[dict[str, str], int]:
    """Return what the frames of a stream are after a disturbed (or fixed) run, and the processes used."""
    async with rig(stream, 0, folder, slab_kb=16, most=MOST if disturb else 0) as r:
        if disturb:
            await feed_until_done(r, make_mixed_payloads(stream), asyncio.ensure_future(disturb(r)))
        else:
            await r.feed(make_mixed_payloads(stream))
        await r.drain()
        counts = {"messages": COUNT + 1, "committed": COUNT, "rejected": 1, "in_flight": 0}
        assert get_counts(r.state) == counts
        assert r.state.read_committed()["quarantined"] == 0
        batches = attach(str(r.run)).frame("telemetry.batches")
        assert batches["sequence"].to_list() == list(range(1, batches.height + 1))
        return fingerprint(r.run, stream), batches["worker"].n_unique()


@pytest.mark.parametrize("stream", STREAMS)
def test_changes_of_the_number_of_workers_leave_the_frames_as_they_are(tmp_path: Path, stream: str) -> None:
    fixed, alone = uvloop.run(run(stream, tmp_path / "fixed", None))
    changed, processes = uvloop.run(run(stream, tmp_path / "changed", resize_often))
    assert changed == fixed
    assert alone == 1
    assert processes > 2, "feed and workers took turns"


async def kill_in_each_change(r: Rig) -> None:
    """Kill a worker of the present crew while another crew starts, or while it is being replaced."""
    for size, pause in zip((2, 1, 3, 2, 0), itertools.cycle((0.0, 0.01)), strict=False):
        change = asyncio.ensure_future(r.pool.resize(size))
        await asyncio.sleep(pause)
        for pid in r.pool.pids[:1]:
            os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(change, HANGING_S)
        await asyncio.sleep(0.2)  # a batch whose worker is killed twice would be quarantined
        async with asyncio.timeout(HANGING_S):
            while r.pool._turns._suspects:
                await asyncio.sleep(0.01)


def test_a_worker_that_is_killed_during_a_change_costs_nothing(tmp_path: Path) -> None:
    fixed, _ = uvloop.run(run("stocks", tmp_path / "fixed", None))
    killed, _ = uvloop.run(run("stocks", tmp_path / "killed", kill_in_each_change))
    assert killed == fixed


def test_a_change_does_not_stop_the_loop_and_leaves_no_process(tmp_path: Path) -> None:
    async def go() -> set[int]:
        loop, seen, longest = asyncio.get_running_loop(), set[int](), 0.0
        async with rig("stocks", 0, tmp_path, most=MOST) as r:
            before = loop.time()
            change = asyncio.ensure_future(resize_often(r))
            while not change.done():
                await asyncio.sleep(0.005)
                longest, before = max(longest, loop.time() - before), loop.time()
                seen.update(r.pool.pids)
            assert longest < 2, "processes start in the background"
            assert (r.pool.size, r.pool.pids) == (0, [])
            return seen

    seen = uvloop.run(go())
    assert len(seen) > MOST
    until(lambda: not any(map(psutil.pid_exists, seen)))


def test_workers_that_cannot_start_leave_the_number_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "too many open files")

    async def go() -> None:
        async with rig("stocks", 0, tmp_path, most=1) as r:
            monkeypatch.setattr(crew, "ProcessPoolExecutor", refuse)
            with pytest.raises(OSError, match="too many"):
                await r.pool.resize(1)
            await r.feed(make_mixed_payloads("stocks"))
            await r.drain()
            assert get_counts(r.state)["committed"] == COUNT
            assert r.pool.size == 0

    uvloop.run(go())


def test_a_pool_that_is_closed_during_a_change_ends_the_new_workers_too(tmp_path: Path) -> None:
    async def go() -> list[psutil.Process]:
        async with rig("stocks", 1, tmp_path, most=MOST) as r:
            (first,) = r.pool.pids
            server = psutil.Process(first).parent()
            assert server is not None
            change = asyncio.ensure_future(r.pool.resize(MOST))
            async with asyncio.timeout(HANGING_S):
                while len(server.children()) <= 2:
                    await asyncio.sleep(0.001)
            found = server.children()
        await asyncio.gather(change, return_exceptions=True)
        return [p for p in found if p.pid != os.getpid()]

    found = uvloop.run(go())
    until(lambda: not any(p.is_running() for p in found))
