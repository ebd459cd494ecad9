"""A run is not disturbed by a clock that somebody sets, nor by a machine that stands still."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import psutil
import pytest

import mdstream
from mdstream.errors import Exit
from mdstream.system.clock import MOST_GAP_S
from tests.engine.test_api import write_site
from tests.running import settings, simulator, until

SET_CLOCK = """
import os, time
def step():
    try:
        return int(open(FILE).read() or 0)
    except OSError:
        return 0
real_ns = time.time_ns
time.time_ns = lambda: real_ns() + step() * 1_000_000_000
time.time = lambda: time.time_ns() / 1e9
"""
"""Makes the wall clock of every process of an engine one that a file sets."""


@pytest.mark.cases("M1")
def test_a_set_clock_and_a_frozen_machine_cost_a_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = tmp_path / "step"
    with simulator("--rate", "200") as sim:
        values = settings(sim, tmp_path, streams=["crypto"], workers=1, hang_timeout_s=3.0)
        values["handoff"] = {"ticket_timeout_s": 3.0}
        for name, value in write_site(
            tmp_path / "site", SET_CLOCK.replace("FILE", repr(str(clock)))
        ).items():
            monkeypatch.setenv(name, value)
        with mdstream.Engine(values) as running:
            run = running.attachment
            until(lambda: run.rows("crypto.quotes") > 50)
            for step_s in (7_200, -7_200):
                clock.write_text(str(step_s))
                before = run.rows("crypto.quotes")
                until(lambda before=before: run.rows("crypto.quotes") > before + 50)
            received = run.frame("crypto.quotes")["recv_ts"]
            assert received.is_sorted(), "what was received later has no earlier time"
            assert running._host is not None
            host = psutil.Process(running._host._process.pid)
            tree = [host, *host.children(recursive=True)]
            for process in tree:
                process.send_signal(signal.SIGSTOP)
            time.sleep(2 * MOST_GAP_S + 1)
            for process in tree:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
            before = run.rows("crypto.quotes")
            until(lambda: run.rows("crypto.quotes") > before + 100)
        report = running.report
    assert report is not None
    crypto = report["streams"]["crypto"]
    assert (crypto["restarts"], crypto["pool"]["rebuilds"], crypto["state"]) == (0, 0, "stopped")
    assert crypto["reconnects"] == 0
    assert crypto["latency"]["p999_ms"] < 60_000, "neither step is in it"
    assert 0 < report["duration_s"] < 3_600
    assert running.exit_code == Exit.OK
