"""Samples of processes, against psutil."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mdstream.telemetry.sampler import Sampler

_BUSY = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\nwhile True: pass"


def test_a_sample_agrees_with_psutil() -> None:
    with subprocess.Popen([sys.executable, "-c", _BUSY]) as busy:
        try:
            process, sampler, roles = psutil.Process(busy.pid), Sampler(), {busy.pid: ("feed", "news")}
            while process.num_threads() < 2:
                time.sleep(0.01)
            sampler.sample_processes(roles)
            time.sleep(0.5)
            os.kill(busy.pid, signal.SIGSTOP)
            while process.status() != psutil.STATUS_STOPPED:
                time.sleep(0.01)
            (found,) = sampler.sample_processes(roles)
            times, switches = process.cpu_times(), process.num_ctx_switches()
            assert (found.pid, found.role, found.stream) == (busy.pid, "feed", "news")
            assert (found.cpu_user_s, found.cpu_system_s) == (times.user, times.system)
            assert (found.voluntary_switches, found.involuntary_switches) == tuple(switches)
            assert found.threads == process.num_threads() == 2
            # The kernel counts pages in batches for each core, and sums them up for one of the two files.
            assert found.rss_bytes == pytest.approx(process.memory_info().rss, abs=1 << 20)
            assert found.cpu_percent > 0
        finally:
            busy.kill()


def test_a_process_that_has_ended_has_no_sample_and_its_number_may_be_used_again() -> None:
    sampler = Sampler()
    with subprocess.Popen([sys.executable, "-c", _BUSY]) as busy:
        roles = {busy.pid: ("feed", "news"), os.getpid(): ("supervisor", "")}
        assert len(sampler.sample_processes(roles)) == 2
        busy.kill()
    assert [sample.role for sample in sampler.sample_processes(roles)] == ["supervisor"]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
            assert len(sampler.sample_processes({other.pid: ("feed", "news")})) == 1
            other.kill()
    sampler.sample_processes({})
    assert len(os.listdir("/proc/self/fd")) <= before, "no file is left open"
