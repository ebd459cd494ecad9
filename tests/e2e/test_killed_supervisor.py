"""What was received before everything was killed is in journal and store."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

import mdstream
from mdstream.frames.rundir import state_path
from mdstream.pool import ipc_names
from mdstream.store.journal import read_entries
from mdstream.telemetry.state import FeedState
from tests import traffic
from tests.e2e.test_faults import pids
from tests.running import settings, simulator, until

COUNT = 6_000


@pytest.mark.cases("M2")
@pytest.mark.parametrize("victims", ["supervisor", "everything"])
def test_what_was_received_outlives_a_kill_while_workers_lag(tmp_path: Path, victims: str) -> None:
    journal, store = tmp_path / "journal", tmp_path / "store"
    flags = ("--rate", "2000", "--messages", str(COUNT), "--messages-per-payload", "5")
    with simulator(*flags) as sim:
        values = settings(
            sim, tmp_path / "rejects", streams=["crypto"], workers=1, **traffic.symbols("crypto")
        )
        values |= {"record": True, "journal": str(journal), "store": {"path": str(store)}}
        running = mdstream.Engine(values)
        running.start()
        folder = running.attachment.path
        state = FeedState(state_path(folder, "crypto"))
        [worker] = until(lambda: pids(running, "worker", "crypto"))
        [feed] = pids(running, "feed", "crypto")
        until(lambda: running.attachment.rows("crypto.trades") > 100)
        os.kill(worker, signal.SIGSTOP)
        done = state["sequence"]
        until(lambda: state["payloads_received"] - state.read_committed()["payloads_committed"] > 300)
        assert running._host is not None
        host = psutil.Process(running._host._process.pid)
        recorders = set(pids(running, "recorder", ""))
        if victims == "everything":
            for process in host.children(recursive=True):
                if process.pid not in recorders:
                    process.kill()
        host.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)
        until(lambda: not folder.exists(), "the recorder removes the folder once all is recorded")
        assert not psutil.pid_exists(feed)
        running.stop()
    ipc_names.reap()  # as the next start does
    committed = state.read_committed()
    assert state["sequence"] > done
    assert state["payloads_received"] == committed["payloads_committed"] > 300
    assert committed["rejected"] == 0
    kept = list(read_entries(journal / running.run / "crypto"))
    assert sum(entry.kind.from_stream for entry in kept) == committed["payloads_committed"]
    trades = mdstream.scan("crypto.trades", store).collect()
    assert trades.height == committed["trade_rows"] > 100
