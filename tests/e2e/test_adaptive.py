"""A run without settings begins with few processes. Workers come when they are needed, and end with their feed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import polars as pl
import psutil
import pytest

import mdstream
from mdstream.frames.rundir import state_path
from mdstream.telemetry.state import FeedState
from tests import traffic
from tests.running import engine, settings, simulator, until

STREAM = "stocks"


def roles(run: mdstream.Engine) -> dict[int, str]:
    """Return the processes of the last sample, with their roles."""
    frame = run.attachment.frame("telemetry.processes")
    last = frame.filter(pl.col("ts") == pl.col("ts").max())
    return dict(zip(last["pid"].to_list(), map(str, last["role"].to_list()), strict=True))


def end(process: psutil.Process) -> None:
    process.kill()
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended between two questions
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_a_run_begins_without_workers_and_fork_servers_of_feeds(tmp_path: Path) -> None:
    names = ["stocks", "crypto"]
    with (
        simulator("--rate", "50") as sim,
        engine(settings(sim, tmp_path, streams=names, **traffic.symbols(*names))) as run,
    ):
        until(lambda: run.attachment.frame("telemetry.batches").height > 20)
        found = until(lambda: len(roles(run)) >= 4 and roles(run))
        assert sorted(found.values()) == ["feed", "feed", "forkserver", "supervisor"]
        feeds = {pid for pid, role in found.items() if role == "feed"}
        assert not any(psutil.Process(pid).children() for pid in feeds)
        assert set(run.attachment.frame("telemetry.batches")["worker"].to_list()) <= feeds
        assert set(run.attachment.frame("telemetry.streams")["pool_size"].to_list()) == {0}


@pytest.mark.parametrize("victim", ["feed", "worker"])
def test_a_feed_that_replaces_a_dead_one_begins_with_a_worker_that_ends_with_it(
    tmp_path: Path, victim: str
) -> None:
    """What killed the former feed may be in a batch that it left."""
    values = settings(None, tmp_path, streams=[STREAM], **traffic.symbols(STREAM))
    with simulator("--rate", "50") as sim, engine(settings(sim, tmp_path) | values) as run:
        state = FeedState(state_path(run.attachment.path, STREAM))
        first = psutil.Process(int(state["pid"]))
        server = first.ppid()
        until(lambda: state.read_committed()["batches"] > 5)
        end(first)
        until(lambda: state["pid"] != first.pid and state["pool_size"] == 1)
        found = until(lambda: [pid for pid, role in roles(run).items() if role == "worker"])
        (worker,) = map(psutil.Process, found)
        assert worker.ppid() == server, "it is forked from what its feed was forked from"
        batches = state.read_committed()["batches"]
        until(lambda: state.read_committed()["batches"] > batches)
        until(lambda: worker.pid in run.attachment.frame("telemetry.batches")["worker"].to_list())
        if victim == "feed":
            end(psutil.Process(int(state["pid"])))
            until(lambda: not worker.is_running())
        else:
            end(worker)
            until(lambda: state["pool_rebuilds"] == 1)
        batches = state.read_committed()["batches"]
        until(lambda: state.read_committed()["batches"] > batches)
    assert run.report is not None
    stream = run.report["streams"][STREAM]
    assert stream["messages"] == stream["committed"]
    assert stream["quarantined"] == 0
