"""Utilization of a run: the calculation, and the sentence that reports it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections import namedtuple
from datetime import UTC, datetime
from typing import Any

import polars as pl
import psutil
import pytest
from rich.console import Console

from mdstream.telemetry.sampler import Sampler, _core
from mdstream.utilization import describe_limit, model_rates
from mdstream.utilization.machine import Clock
from mdstream.utilization.streams import _costs
from mdstream.utilization.values import foreign_share
from mdstream.views.utilization import _models
from tests.running import until


def make_utilization(**changes: Any) -> dict[str, Any]:
    stream = {"workers": 2, "workers_busy": 10.0, "feed_busy": 10.0}
    usual = {"cores": {"count": 4}, "streams": {"stocks": stream, "news": dict(stream)}}
    flow: dict[str, Any] = {
        "busy": 20.0,
        "simulator_busy": 10.0,
        "simulator_share": 0.5,
        "foreign": 0.0,
        "compiling": 0.0,
        "waits_ms": 3.0,
    }
    flow["conclusive"] = True
    at = {name: changes.pop(name) for name in flow if name in changes}
    return {**usual, **changes, "flow": {**flow, **at}}


def test_workers_add_up_until_the_feed_or_the_cores_end_it() -> None:
    one = model_rates(100.0, 300.0, 1, 16)
    assert one["inline_per_s"] == pytest.approx(1e9 / 400)
    assert one["now_per_s"] == pytest.approx(1e9 / 300)
    assert one["one_more_per_s"] == pytest.approx(2e9 / 300)
    assert one["speedup"] == pytest.approx(4 / 3, abs=1e-3)
    assert one["efficiency"] == pytest.approx(2 / 3, abs=1e-3)
    assert model_rates(100.0, 300.0, 8, 16)["one_more_per_s"] == pytest.approx(1e7), "limited by one feed"
    assert model_rates(100.0, 300.0, 3, 2)["now_per_s"] == pytest.approx(2e9 / 400), "limited by two cores"


def test_a_run_that_is_idle_is_limited_by_nothing() -> None:
    idle = "Nothing limits this run: while messages arrived, the cores were idle 80% of the time"
    assert idle in describe_limit(make_utilization())
    assert "Nothing limits this run: " in describe_limit(make_utilization(streams={}))


def test_a_run_that_was_too_short_reports_nothing() -> None:
    assert "too short a time to say" in describe_limit(make_utilization(conclusive=False, busy=97.0))


def test_full_cores_come_first_and_the_simulators_share_is_reported() -> None:
    text = describe_limit(make_utilization(busy=97.0))
    assert (
        "The cores limit this run: while messages arrived, 4 cores were busy 97% of the time; the simulator "
        "used 50% of this run's CPU time" in text
    )
    assert "simulator" not in describe_limit(make_utilization(busy=97.0, simulator_share=0.0))


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (
            {"workers": 2, "workers_busy": 95.0},
            "The workers of stocks limit this run: its 2 workers decoded 95%",
        ),
        (
            {"workers": 1, "workers_busy": 95.0, "model": {"now_per_s": 1.0, "one_more_per_s": 1.6}},
            "One more would add about 60%",
        ),
        ({"workers": 0, "feed_busy": 99.0}, "was busy 99% of the time, without workers."),
        (
            {"workers": 0, "feed_busy": 99.0, "model": {"now_per_s": 1.0, "one_more_per_s": 1.4}},
            "was busy 99% of the time, without workers. One would add about 40%.",
        ),
        ({"workers": 2, "workers_busy": 20.0, "feed_busy": 99.0}, "More workers would not help"),
    ],
)
def test_a_stream_that_is_used_up_is_named(stream: dict[str, Any], expected: str) -> None:
    assert expected in describe_limit(make_utilization(streams={"news": {"workers": 1}, "stocks": stream}))


def test_a_simulator_that_is_used_up_is_named() -> None:
    text = describe_limit(make_utilization(simulator_busy=97.0))
    assert "The simulator limits this run: its single process was busy 97% of the time" in text


def test_other_programs_that_take_the_cores_are_reported() -> None:
    assert foreign_share(20.0, 10.0) == 0.5
    text = describe_limit(make_utilization(busy=100.0, foreign=0.5, waits_ms=33.2))
    assert (
        "Other programs limit this run: while messages arrived, 4 cores were busy 100% of the time" in text
    )
    assert "of that, other programs used 50%. 99% of batches waited at most 34 ms" in text


def test_the_compiler_is_not_called_another_program() -> None:
    text = describe_limit(make_utilization(busy=100.0, compiling=0.6, waits_ms=33.2))
    assert text.startswith("The compilation, which is done once, limits this run: while messages arrived")
    assert "of that, the compilation of the decoders used 60%. 99% of batches" in text
    text = describe_limit(make_utilization(busy=100.0, compiling=0.3, foreign=0.4, waits_ms=33.2))
    assert text.startswith("Other programs limit this run")
    assert "other programs used 40% and the compilation of the decoders used 30%" in text
    text = describe_limit(make_utilization(busy=100.0, compiling=0.6))
    assert text.startswith("Nothing limits this run, although its cores were full")


def test_waits_are_reported_though_the_cores_were_not_full() -> None:
    text = describe_limit(make_utilization(foreign=0.5, waits_ms=88.0))
    assert text.startswith(
        "Nothing limits this run for long: while messages arrived, the cores were idle 80%"
    )
    assert "of the busy time, other programs used 50%. 99% of batches waited at most 88 ms" in text


def test_without_workers_it_is_reported_what_one_would_bring() -> None:
    alone = model_rates(250.0, 350.0, 0, 2)
    assert alone["now_per_s"] == pytest.approx(1e9 / 600)
    assert alone["one_more_per_s"] == pytest.approx(1e9 / 350)
    assert (alone["speedup"], alone["efficiency"]) == (1.0, 1.0)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*_models({"news": {"workers": 0, "model": alone}, "stocks": {"no_model": "few arrived"}}))
    text = " ".join(console.export_text().split())
    assert (
        "news 1.67 M messages/s without workers, 2.86 M messages/s at most with one: decoding is 58%"
        in text
    )
    assert "stocks: few arrived to estimate one more worker" in text


def test_other_programs_that_hold_nothing_up_are_not_blamed() -> None:
    text = describe_limit(make_utilization(busy=100.0, foreign=0.5, waits_ms=1.6))
    assert text.startswith("Nothing limits this run, although its cores were full: while messages")
    assert "99% of batches waited at most 2 ms" in text
    assert "other programs used 50%" in text
    assert "The cores limit" in describe_limit(
        make_utilization(busy=100.0, foreign=foreign_share(20.0, 19.0))
    )


class Frames:
    """The frames of a made-up run that `Clock` reads."""

    def __init__(self, **frames: pl.DataFrame) -> None:
        self._frames = frames

    def frame(self, name: str) -> pl.DataFrame:
        return self._frames[name.removeprefix("telemetry.")]


def test_a_sample_reports_the_second_before_it_and_those_nobody_sampled() -> None:
    def ts(*seconds: float) -> pl.Series:
        return pl.Series("ts", [int(s * 1e9) for s in seconds]).cast(pl.Datetime("ns"))

    # The first sample covers no time. One second has a late sample, and one second has no sample.
    cores = pl.DataFrame({"ts": ts(5.0, 6.0, 7.01, 9.02), "busy_percent": [1.0, 10.0, 20.0, 40.0]})
    clock = Clock(Frames(cores=cores))  # type: ignore[arg-type]
    assert clock.to_list(clock.assign_bins(cores), "busy_percent") == [10.0, 20.0, 40.0, 40.0]
    worker = pl.DataFrame({"ts": ts(7.01), "role": ["worker"], "cpu": [150.0]})
    assert clock.sum_by_role(worker, pl.col("cpu")) == {"worker": [0.0, 150.0, 0.0, 0.0]}


def test_a_process_that_is_new_is_reported_with_what_it_took_to_start() -> None:
    sampler = Sampler()
    roles = {os.getpid(): ("supervisor", "")}
    sampler.sample_processes(roles)
    code = "import time\nt = time.process_time()\nwhile time.process_time() < t + 0.4: pass\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        until(lambda: sum(psutil.Process(process.pid).cpu_times()[:2]) > 0.3)
        (_, found) = sampler.sample_processes({**roles, process.pid: ("worker", "news")})
        process.communicate(b"\n")
    assert found.role == "worker"
    assert found.cpu_percent > 0


def test_a_core_s_shares_are_those_of_the_time_that_passed_however_short() -> None:
    times = namedtuple("times", "user nice system idle iowait steal guest")
    then = times(100.0, 1.0, 50.0, 900.0, 5.0, 0.0, 20.0)
    now = times(100.02, 1.0, 50.01, 900.06, 5.01, 0.0, 20.02)
    found = _core(3, then, now)
    assert (found.core, found.busy_percent) == (3, pytest.approx(30))
    assert (found.user_percent, found.system_percent) == (pytest.approx(20), pytest.approx(10))
    assert _core(3, now, now).busy_percent == 0.0


def test_a_process_that_has_ended_is_reported_by_its_own_last_sample() -> None:
    sampler, pid, times = Sampler(), os.getpid(), [time.monotonic()]
    (before,) = sampler.sample_processes({pid: ("feed", "stocks")})
    times.append(time.monotonic())
    last = before._replace(cpu_user_s=before.cpu_user_s + 0.5, cpu_percent=1.0)
    time.sleep(0.5)
    times.append(time.monotonic())
    (sample,) = sampler.sample_processes(
        {pid: ("feed", "stocks")}, [last]
    )  # the process is still in the list, but is reported once
    times.append(time.monotonic())
    assert sample.cpu_user_s == last.cpu_user_s
    least, most = 50 / (times[3] - times[0]), 50 / (times[2] - times[1])  # half a second of CPU time
    assert least * 0.99 < sample.cpu_percent < most * 1.01
    (unknown,) = Sampler().sample_processes({}, [last])
    assert unknown == last


def test_a_streams_rate_is_that_of_the_time_before_it_drains() -> None:
    seconds = [datetime(2026, 1, 5, 12, 0, s, tzinfo=UTC) for s in range(6)]
    samples = pl.DataFrame(
        {
            "ts": seconds,
            "messages": [0, 500, 1500, 2500, 3500, 3600],
            "state": ["connecting", *["streaming"] * 4, "stopped"],
            "pool_size": [0, 1, 1, 1, 1, 1],
        }
    )
    processes = pl.DataFrame(
        {
            "ts": seconds,
            "role": ["feed"] * 6,
            "pid": [7] * 6,
            "cpu_user_s": [0.0, 0.1, 0.3, 0.5, 0.7, 5.0],
            "cpu_system_s": [0.0] * 6,
        }
    )
    batches = pl.DataFrame({"end_ts": seconds[2:3], "cpu_ns": [0], "messages": [3000], "worker": [8]})
    costs = _costs(batches, samples, processes, 1, 2)
    assert costs["messages_per_s"] == 1000.0
    assert costs["feed_busy"] == pytest.approx(20.0)
    assert costs["feed_ns"] == pytest.approx(200_000)


def test_workers_that_came_and_went_are_busy_in_the_time_they_were_there() -> None:
    seconds = [datetime(2026, 1, 5, 12, 0, s, tzinfo=UTC) for s in range(6)]
    samples = pl.DataFrame(
        {
            "ts": seconds,
            "messages": [0, 10_000, 20_000, 30_000, 40_000, 50_000],
            "state": ["streaming"] * 6,
            "pool_size": [0, 0, 0, 1, 1, 0],
        }
    )
    processes = pl.DataFrame(
        {
            "ts": seconds * 2,
            "role": ["feed"] * 6 + ["worker"] * 6,
            "pid": [7] * 6 + [8] * 6,
            "cpu_user_s": [0.0, 0.5, 1.0, 1.5, 1.75, 2.0, *[0.0] * 4, 0.6, 0.6],
            "cpu_system_s": [0.0] * 12,
        }
    )
    batches = pl.DataFrame(
        {
            "end_ts": seconds[2:4],
            "cpu_ns": [600_000_000, 500_000_000],
            "messages": [20_000, 20_000],
            "worker": [7, 8],
        }
    )
    costs = _costs(batches, samples, processes, 1, 2)
    assert costs["workers_busy"] == pytest.approx(100 * 0.6 / 2)
    model = costs["model"]
    feed_s, decoding_s = 1.0 - 0.6, 0.6 + 0.6
    assert model["decode_share"] == pytest.approx(decoding_s / (feed_s + decoding_s), abs=1e-3)
