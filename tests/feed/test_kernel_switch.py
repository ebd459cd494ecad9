"""A stream begins without compiled kernels and switches to them: its rows are the same."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from mdstream.reading.attach import attach
from mdstream.streams import STREAMS
from tests.feed.test_pipeline import payloads
from tests.forking import end_fork_server
from tests.piping import Rig, fingerprint, rig
from workers import boot, python_mode
from workers.kernels import kept

COUNT = 6000


@pytest.fixture
def uncompiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder in which all kernels are, but the mark that they are complete is missing.

    This process and those that it starts are as new: they have no kernels.
    """
    assert kept.CACHE is not None
    copy = tmp_path / "cache" / "mdstream" / kept.CACHE.name
    shutil.copytree(kept.CACHE, copy)
    for path in (copy, copy.parent):
        path.chmod(0o700)
    (copy / "complete").unlink()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "CACHE", copy)
    monkeypatch.setattr(boot, "_has_kernels", False)
    yield
    python_mode.leave()
    end_fork_server()


def run(stream: str, workers: int, folder: Path, switches: bool, kills: bool = False) -> dict[str, str]:
    """Return the digests of all columns.

    With `switches`, kernels are complete from the middle on. With `kills`, a worker dies meanwhile.
    """
    given = payloads(stream, COUNT)
    half = len(given) // 2

    async def switch(r: Rig) -> None:
        before = set(r.pool.pids)
        kept.complete()
        feeding = asyncio.ensure_future(r.feed(given[half : -half // 4]))
        switching = asyncio.ensure_future(r.pool.use_kernels())
        if kills:
            await asyncio.sleep(0.1)
            os.kill(min(before), signal.SIGKILL)
        assert await switching
        r.pipeline.use_kernels()
        await feeding
        assert not before & set(r.pool.pids)
        assert len(r.pool.pids) == workers
        assert not python_mode.is_on()
        await r.feed(given[-half // 4 :])

    async def go() -> dict[str, str]:
        async with rig(stream, workers, folder, forks=not switches, slab_kb=16) as r:
            assert r.pool.has_kernels is not switches
            await r.feed(given[:half])
            await (switch(r) if switches else r.feed(given[half:]))
            await r.drain()
            assert r.pool.rebuilds == kills
            assert attach(str(r.run)).frame("telemetry.batches")["messages"].sum() == COUNT
            return fingerprint(r.run, stream)

    return uvloop.run(go())


@functools.cache
def run_with_kernels(stream: str, folder: Path) -> dict[str, str]:
    """Return the digests of a run that has kernels from its start; it has no workers, which changes nothing."""
    return run(stream, 0, folder, switches=False)


@pytest.fixture(scope="module")
def rejects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rejects")


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("workers", [0, 2])
def test_the_rows_are_those_of_a_stream_with_kernels(
    tmp_path: Path, uncompiled: None, rejects: Path, stream: str, workers: int
) -> None:
    found = run(stream, workers, tmp_path, switches=True)
    assert run_with_kernels(stream, rejects) == found
    assert len(found) > 8


def test_a_worker_that_dies_during_the_switch_costs_nothing(
    tmp_path: Path, uncompiled: None, rejects: Path
) -> None:
    found = run("stocks", 2, tmp_path, switches=True, kills=True)
    assert run_with_kernels("stocks", rejects) == found
