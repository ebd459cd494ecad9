"""The command as its users run it: exit codes, one clear line each, Ctrl-C, and nothing left behind."""

from __future__ import annotations

import contextlib
import html
import itertools
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from mdstream.frames.rundir import SHARED_MEMORY, default_root, is_alive, list_runs, reap
from mdstream.pool import ipc_names
from tests.commands import CLEAN, MDSTREAM, command, logged, now, run_of, started, stopped, streaming
from tests.running import HANGING_S, fill, simulator, tmpfs, until

KEYS = {"APCA_API_KEY_ID": "test", "APCA_API_SECRET_KEY": "test"}


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> None:
    until(lambda: not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE])


# -- a run that ends well


def test_without_keys_it_runs_on_the_simulator_and_says_how_to_go_live(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with started("--report", str(report), anew=True) as process:
        assert "For live data, set APCA_API_KEY_ID and APCA_API_SECRET_KEY" in streaming(process, 4)
        run = run_of(process)
        until(lambda: now(run).select(pl.col("messages", "fetch_cycles").min() > 0).row(0) == (True, True))
        until(lambda: run.frame("telemetry.batches")["stream"].n_unique() == 4)
        until(lambda: run.rows("telemetry.cores") > 3 * len(os.sched_getaffinity(0)))
        out, err = stopped(process)
    assert process.returncode == 0, err
    assert not re.search(r"^\S+ (WARNING|ERROR)", err, re.MULTILINE), err
    assert "run 2" in out
    found = json.loads(report.read_text())
    assert set(found["streams"]) == {"stocks", "options", "crypto", "news"}
    for stream in found["streams"].values():
        assert stream["messages"] == stream["committed"] + stream["rejected"] + stream["in_flight"]
        assert stream["messages"] > 0
        assert stream["state"] == "stopped"
        latency = stream["latency"]
        assert 0 < latency["p50_ms"] <= latency["p99_ms"] <= latency["p999_ms"]
        assert stream["feed_delay"]["p50_ms"] is None or stream["feed_delay"]["p50_ms"] < 60_000
        assert stream["symbols_failed"] == {}
    assert found["duration_s"] > 1
    assert 0 < found["t_total_s"] < found["duration_s"]
    assert found["cores"]["count"] == len(found["cores"]["by_core"]) == len(os.sched_getaffinity(0))
    assert 0 <= found["cores"]["busy_mean"] <= 100
    assert found["frames"]["stocks.trades"]["rows"] > 0
    roles = {p["role"] for p in found["processes"]} - {"worker"}  # only under load
    assert roles == {"supervisor", "feed", "simulator", "forkserver"}
    assert found["run"] in out
    assert found["utilization"]["limit"] in " ".join(out.split())
    assert_utilization(found["utilization"])

    picture, page = tmp_path / "run.png", tmp_path / "run.html"
    for out in (picture, page):
        shown = command("report", str(report), "--out", str(out), anew=out == picture)
        assert shown.returncode == 0, shown.stderr
        assert f"run {found['run']}" in shown.stdout
        assert "core 0" in shown.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert found["utilization"]["limit"] in html.unescape(page.read_text())
    shown = command("report", str(report), "--json")
    assert json.loads(shown.stdout) == found["utilization"]


def assert_utilization(found: dict[str, Any]) -> None:
    """The reported CPU times of a run add up."""
    cores = found["cores"]
    assert cores["count"] == len(cores["by_core"]) == len(os.sched_getaffinity(0))
    assert 0 < cores["user"] <= cores["busy"] <= 100
    assert cores["idle"] == pytest.approx(100 - cores["busy"], abs=0.01)
    assert sum(row["share"] for row in found["roles"]) == pytest.approx(1)
    roles = {row["role"] for row in found["roles"]} - {"worker"}  # only under load
    assert roles == {"supervisor", "feed", "simulator", "forkserver"}
    assert sum(row["processes"] for row in found["roles"] if row["role"] == "feed") == 4
    assert 0 < found["flow"]["decode_s"] < found["flow"]["engine_cpu_s"]
    assert max(found["machine"]["shm_bytes"]) > 1e6
    assert max(found["machine"]["switches"]) > 10
    for stream in found["streams"].values():
        assert stream["batches"] > 0
        assert all(stage["mean"] >= 0 for stage in stream["stages_ms"].values())


def test_the_report_of_a_run_that_goes_on(tmp_path: Path) -> None:
    with started("--streams", "crypto") as process:
        streaming(process)
        run = run_of(process)
        until(lambda: run.rows("telemetry.streams") > 2)
        shown = command("report", "--live")
        assert shown.returncode == 0, shown.stderr
        assert "still running" in shown.stdout
        assert "crypto" in shown.stdout


def test_a_report_of_nothing_is_refused_in_a_line(tmp_path: Path) -> None:
    odd = tmp_path / "odd.json"
    odd.write_text('{"run": 1}')
    hollow = tmp_path / "hollow.json"
    hollow.write_text('{"run": "x", "started": "", "utilization": {}}')
    for arguments, reported in (
        ([], "give either the RUN.json of a run that has ended, or --live"),
        ([str(odd), "--live"], "give either the RUN.json of a run that has ended, or --live"),
        ([str(odd)], "is not a report of a run"),
        ([str(hollow)], "is not a report of a run, or is damaged; make one with"),
        (["/dev/zero"], "is not a file"),
        ([str(tmp_path / "none.json")], "cannot read"),
    ):
        done = command("report", *arguments)
        assert done.returncode == 2
        assert reported in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_log_lines_can_be_json_and_a_line_a_symbol() -> None:
    with started("--streams", "crypto", "--log-json", "--log-level", "debug") as process:
        lines = logged(process, '"fetched ') + stopped(process)[1]
    records = [json.loads(line) for line in lines.splitlines()]
    assert {"ts", "level", "stream", "message", "pid", "logger"} <= set(records[0])
    symbols = [r["message"] for r in records if r["level"] == "debug" and r["stream"] == "crypto"]
    assert {"BTC/USD ok", "ETH/USD ok"} <= set(symbols)


def test_a_terminal_shows_the_live_view(tmp_path: Path) -> None:
    pid, descriptor = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm-256color", "COLUMNS": "150", "LINES": "40"})
        for name in [n for n in os.environ if n.startswith("APCA_")]:
            del os.environ[name]
        os.execv(sys.executable, [*MDSTREAM, "run", "--streams", "stocks,crypto"])
    headings = (
        "stream",
        "state",
        "symbols",
        "messages/s",
        "rate over time",
        "p50 ms",
        "p99 ms",
        "last price",
    )
    patterns = [
        *map(re.escape, headings),
        r"stocks\s+streaming\s+10\s",
        r"crypto\s+BTC/USD\s+[\d,.]+\s",
        r"cores \d\.\d of \d+ busy",
        "fetched 5 symbols",
    ]
    shown, asked = b"", False
    with contextlib.suppress(OSError):  # the terminal closes when the command ends
        while select.select([descriptor], [], [], HANGING_S)[0]:
            data = os.read(descriptor, 65536)
            if not data:
                break
            shown += data
            text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="replace"))
            if not asked and all(re.search(pattern, text) for pattern in patterns):
                os.kill(pid, signal.SIGINT)
                asked = True
    os.close(descriptor)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    *_, last = text.strip().splitlines()
    assert re.search(r"run \d.*messages, all committed", last), "what matters comes last"
    for pattern in (*patterns, "first fetch of all streams"):
        assert re.search(pattern, text), pattern


# -- ends that are asked for


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_drains_and_stops_with_a_report(number: int) -> None:
    with started("--streams", "stocks,crypto") as process:
        streaming(process, 2)
        children = family(process)
        process.send_signal(number)
        out, _ = process.communicate(timeout=HANGING_S)
        assert process.returncode == 0
        assert "stopped" in out
        assert re.search(r"stocks\s.*\s0\s+0\s", out)
        all_gone(children)


def test_ctrl_c_reaches_the_whole_group_and_still_drains() -> None:
    with started("--streams", "stocks") as process:
        streaming(process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=HANGING_S)
        assert process.returncode == 0
        assert "stopped" in out
        assert "Traceback" not in err


@pytest.mark.parametrize("after_s", [0.3, 0.6, 1.0, 1.4, 1.8, 2.5])
def test_ctrl_c_while_everything_starts_is_a_clean_end(after_s: float) -> None:
    process = subprocess.Popen(
        [*MDSTREAM, "run", "--streams", "stocks,crypto"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=CLEAN,
        start_new_session=True,
    )
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=HANGING_S)
    if err.startswith("Could not import runpy module"):
        pytest.skip("the machine was so busy that Python had not begun to load the program")
    assert "Traceback" not in err
    assert "failed:" not in err
    # Killed by the signal: Python itself was not up yet. A shell shows 130 for it, too.
    assert process.returncode in (0, 130, -signal.SIGINT)


def test_a_second_ctrl_c_stops_now() -> None:
    with started("--streams", "stocks", anew=True) as process:
        streaming(process)
        children = family(process)
        [template] = [
            p for p in children if p.ppid() == process.pid and "forkserver import" in " ".join(p.cmdline())
        ]
        [feed] = template.children()
        feed.suspend()  # nobody will drain
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        while process.poll() is None:  # again, for if it was busy then, the two are one to it
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
        _, err = process.communicate(timeout=HANGING_S)
        assert process.returncode == 130
        assert "not drained within" not in err, "that would have been the timeout"
        all_gone(children)


def test_a_killed_supervisor_takes_all_processes_along_and_the_next_start_cleans_up() -> None:
    with started("--streams", "stocks,crypto") as process:
        streaming(process, 2)
        children = family(process)
        assert len(children) >= 5
        [left] = [path for path in list_runs() if is_alive(path) and path.name.endswith(str(process.pid))]
        process.kill()
        process.wait()
        all_gone(children)
    assert left.exists()
    done = command("run", "--streams", "news", "--duration", "0.5")
    assert done.returncode == 0
    assert f"removed the leftovers of the dead run {left.name}" in done.stderr
    assert not left.exists()
    assert reap() == []


def test_the_next_start_cleans_up_after_a_kill_of_the_whole_group() -> None:
    """As an out-of-memory killer does it: nobody is left to tidy, not even Python's own tracker."""

    def semaphores() -> list[Path]:
        return [p for p in SHARED_MEMORY.glob("sem.mdstream-*") if f"-{process.pid}-" in p.name]

    with started("--streams", "stocks", "--workers", "2") as process:
        streaming(process)
        children = family(process)
        assert semaphores()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        all_gone(children)
    reap()
    ipc_names.reap()
    assert not semaphores()


def test_an_engine_ends_with_the_script_that_started_it() -> None:
    code = (
        "import mdstream, os, signal\n"
        "e = mdstream.Engine({'streams': ['news']}); e.start(); print(e.run, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=HANGING_S,
        env=CLEAN,
        check=False,
    )
    assert done.returncode == -9
    run = done.stdout.strip()
    assert run
    until(lambda: not [p for p in list_runs() if p.name.endswith(run)], "the orphaned engine has not ended")


# -- ends that are not


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["run", "--streams", "bonds"], 2, "command line: streams: 'bonds' is not one of stocks, options"),
        (["run", "--symbols", "AAPL"], 2, "--symbols AAPL: write STREAM=VALUE"),
        (["run", "--feed", "stocks=nyse"], 2, "command line: stocks.feed: 'nyse' is not one of iex, sip"),
        (["run", "--config", "/nowhere.toml"], 2, "cannot read /nowhere.toml: No such file"),
        (
            ["run", "--stream-url", "http://x"],
            2,
            "command line: stream_url: 'http://x' must begin with ws:// or wss://",
        ),
        (
            ["run", "--stream-url", "ws://x:port"],
            2,
            "command line: stream_url: the port in 'ws://x:port' must be",
        ),
        (["run", "--report", "/"], 2, "report: / is a folder; name a file in it"),
        (["run", "--report", "/nowhere/r.json"], 2, "report: no folder /nowhere"),
        (["run", "--workers", "-5"], 2, "command line: workers: -5 is below the minimum of 0"),
        (["simulate", "--fault", "oops"], 2, "fault 'oops': expected [STREAM:]KIND"),
        (["simulate", "--ticks", "/nowhere.csv"], 2, "command line: ticks: no file '/nowhere.csv'"),
        (["simulate", "--port", "99999"], 2, "command line: port: 99999 is above the maximum of 65535"),
        (["simulate", "--rate", "-1"], 2, "command line: rate: -1 is below the minimum of 0"),
        (["tail", "stocks.trades", "--run", "none"], 6, "no run none under"),
        (["record", "--run", "none"], 6, "no run none under"),
        (["report", "--live", "--run", "none"], 6, "no run none under"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(arguments: list[str], code: int, line: str) -> None:
    done = command(*arguments)
    assert done.returncode == code
    assert done.stderr.startswith(f"mdstream: {line}")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_unknown_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text("[stocks]\nsymbls = ['A']\n")
    done = command("run", "--config", str(path))
    assert done.returncode == 2
    assert done.stderr == f"mdstream: {path}: unknown setting stocks.symbls; did you mean 'symbols'?\n"
    done = command("run", env={"MDSTREAM_FETCH__INTERVALS": "5"})
    assert "environment: unknown setting fetch.intervals; did you mean 'interval_s'?" in done.stderr


def test_a_bad_key_is_one_clear_line_and_its_own_exit_code(tmp_path: Path) -> None:
    env = {"APCA_API_KEY_ID": "my-key", "APCA_API_SECRET_KEY": "my-secret"}
    right = {"SIMULATOR_KEY_ID": "right", "SIMULATOR_SECRET_KEY": "right"}
    with simulator(env=right) as sim:
        report = tmp_path / "r.json"
        done = command(
            "run",
            "--stream-url",
            sim.stream_url,
            "--streams",
            "stocks,news",
            "--report",
            str(report),
            env=env,
            anew=True,
        )
    assert done.returncode == 3
    lines = [line for line in done.stderr.splitlines() if "(402)" in line]
    assert len(lines) == 2, "said once a stream"
    assert "check APCA_API_KEY_ID and APCA_API_SECRET_KEY" in lines[0]
    everything = done.stdout + done.stderr + report.read_text()
    assert "my-key" not in everything
    assert "my-secret" not in everything


def test_an_occupied_port_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("simulate", "--port", str(port))
    assert done.returncode == 5
    assert done.stderr.startswith(f"mdstream: 127.0.0.1:{port} is in use")
    assert len(done.stderr.splitlines()) == 1


def test_a_shared_memory_that_is_too_small_is_one_clear_line(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "shm", 6) as folder:
        done = command("run", "--duration", "5", env={"MDSTREAM_FRAMES__DIRECTORY": str(folder)})
        assert done.returncode == 4
        [line] = done.stderr.splitlines()
        assert re.search(r"no room for [\d.]+ MB at .*enlarge it \(Docker: --shm-size\)", line)
        assert list(folder.iterdir()) == []


def test_in_a_small_shared_memory_all_streams_run_at_full_speed(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with tmpfs(tmp_path / "shm", 64) as folder:  # Docker's default
        env = {
            "MDSTREAM_FRAMES__DIRECTORY": str(folder),
            "MDSTREAM_SIMULATOR__RATE": "0",
            "MDSTREAM_SIMULATOR__MESSAGES_PER_PAYLOAD": "20",
        }
        with started("--report", str(report), env=env) as process:
            log = streaming(process, 4)
            run = run_of(process, folder)
            until(lambda: now(run)["messages"].min() > 10_000)
            log += stopped(process)[1]
            assert process.returncode == 0, log
        assert list(folder.iterdir()) == []
    assert re.search(r"WARNING engine\s+only \d+ MB of shared memory are free", log)
    for stream in json.loads(report.read_text())["streams"].values():
        assert stream["committed"] == stream["messages"] > 10_000


def test_a_shared_memory_that_is_full_for_a_moment_loses_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with tmpfs(tmp_path / "shm", 64) as folder:
        env = {"MDSTREAM_FRAMES__DIRECTORY": str(folder), "MDSTREAM_SIMULATOR__RATE": "20000"}
        with started("--streams", "stocks,crypto", "--report", str(report), env=env) as process:
            streaming(process, 2)
            run = run_of(process, folder)
            with keeping_full(folder):
                logged(process, "waiting up to 30 s for room")
                time.sleep(1.0)
            until(lambda: now(run)["messages"].min() > 10_000, lambda: str(now(run)))
            _, err = stopped(process)
            assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Bus error" not in err
    for stream in json.loads(report.read_text())["streams"].values():
        assert stream["committed"] == stream["messages"] > 10_000
        assert stream["restarts"] == 0


@contextlib.contextmanager
def keeping_full(folder: Path) -> Iterator[None]:
    """While this lasts, whatever becomes free on the file system of `folder` is taken."""
    filler, over = folder / "filler", threading.Event()

    def take() -> None:
        with filler.open("wb", buffering=0) as file:
            while not over.is_set():
                fill(folder, file)
                time.sleep(0.01)

    taking = threading.Thread(target=take)
    taking.start()
    try:
        yield
    finally:
        over.set()
        taking.join()
        filler.unlink()


# -- the other commands


def test_tail_and_doctor_see_a_running_engine() -> None:
    with started("--streams", "stocks,crypto") as process:
        streaming(process, 2)
        [path] = [p for p in list_runs() if p.name.endswith(str(process.pid))]
        listed = command("tail", anew=True)
        assert re.search(r"\d+  stocks.trades", listed.stdout)
        assert "telemetry.cores" in listed.stdout
        rows = command("tail", "stocks.quotes", "-n", "5", "--json")
        quotes = [json.loads(line) for line in rows.stdout.splitlines()]
        assert len(quotes) == 5
        assert {"symbol", "bid_price", "ask_price", "ts"} <= set(quotes[0])
        table = command("tail", "crypto.trades", "-n", "3", "--from-start").stdout.splitlines()
        assert table[0].split("\t")[:4] == ["symbol", "ts", "price", "size"]
        assert len(table) == 4
        both = ("stocks.quotes", "crypto.quotes")
        several = command("tail", *both, "-n", "200", "--json").stdout.splitlines()
        assert {json.loads(line)["frame"] for line in several} == set(both)
        lines = [line.split("\t") for line in command("tail", *both, "-n", "200").stdout.splitlines()]
        shown = [first for first, *_ in lines]
        assert len(lines) - shown.count("frame") == 200
        assert {above for above, name in itertools.pairwise(shown) if name == "frame"} <= set(both)
        for above, name in itertools.pairwise(shown):
            assert above in (name, "frame") or name == "frame", "a header is above each change of the frame"
        wrong = command("tail", "stocks.nothing")
        assert wrong.returncode == 2
        assert "no frame 'stocks.nothing'" in wrong.stderr
        said = command("doctor", anew=True)
        assert path.name in said.stdout
        assert said.returncode == 0


def test_tail_ends_quietly_when_its_reader_does() -> None:
    with started("--streams", "stocks") as process:
        streaming(process)
        shell = f"{sys.executable} -m mdstream tail stocks.quotes --from-start | head -2"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", shell],
            capture_output=True,
            text=True,
            timeout=HANGING_S,
            check=False,
        )
        assert len(done.stdout.splitlines()) == 2
        assert "Traceback" not in done.stderr


def test_doctor_reaches_the_endpoints_it_is_given(tmp_path: Path) -> None:
    env = {"APCA_API_KEY_ID": "k", "APCA_API_SECRET_KEY": "s"}
    with simulator("--fault", "crypto:auth=402") as sim:
        env["MDSTREAM_STREAM_URL"] = sim.stream_url
        done = command("doctor", env={**env, "COLUMNS": "400"})
    assert done.returncode == 1
    text = done.stdout
    assert re.search(r"ok\s+data http://127.0.0.1:\d+\s+answers", text)
    assert re.search(r"ok\s+stocks ws://\S+\s+connects and authenticates", text)
    assert re.search(r"bad\s+crypto( ws://\S+)?\s+auth failed \(402\)", text)
    assert "Python" in text
    assert str(default_root()) in text


def test_doctor_calls_bad_what_a_run_would_fail_on(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "shm", 6) as small:
        for folder, said in (
            (str(small), r"bad\s+shared memory\s+\S+ .*enlarge it"),
            (str(tmp_path / "none"), r"bad\s+shared memory\s+cannot write .*set frames.directory"),
        ):
            env = {"MDSTREAM_FRAMES__DIRECTORY": folder, "COLUMNS": "400"}
            done = command("doctor", "--offline", env=env)
            assert done.returncode == 1
            assert re.search(said, done.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("run", "--duration", "abc"),
            "command line: duration: 'abc' is not a number of seconds or a duration",
        ),
        (("run", "--bogus"), "No such option: --bogus"),
        (("--bogus",), "No such option: --bogus"),
        (("nothing",), "No such command 'nothing'"),
        (("simulate", "--rate"), "Option '--rate' requires an argument"),
        (("run", "--workers", "1000"), "command line: workers: 1000 is above the maximum of 256"),
    ],
)
def test_a_wrong_flag_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"mdstream: {said}")


def test_without_a_command_it_helps() -> None:
    done = command(anew=True)
    assert done.returncode == 0
    assert "Usage: mdstream" in done.stdout


def test_help_teaches() -> None:
    for name in ("run", "simulate", "tail", "doctor"):
        done = command(name, "--help", anew=True)
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) > 10
    text = command("run", "--help").stdout
    for flag in (
        "--config",
        "--streams",
        "--symbols",
        "--duration",
        "--report",
        "--workers",
        "--stream-url",
        "--data-url",
        "--feed",
    ):
        assert flag in text
    assert "Ctrl-C" in text


def test_a_package_that_shadows_the_workers_is_named(tmp_path: Path) -> None:
    (tmp_path / "workers.py").write_text("X = 1\n")
    code = "from mdstream.pool.pool import WorkerPool; WorkerPool(0, 1)"
    env = CLEAN | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert "rename that file or folder" in done.stderr
    assert str(tmp_path / "workers.py") in done.stderr


@pytest.mark.parametrize(
    "shell",
    [
        "| true",
        ">/dev/full",
        *(pytest.param(s, marks=pytest.mark.slow) for s in (">&-", "2>/dev/full", "2>&- | true")),
    ],
)
def test_nobody_takes_the_output_and_the_report_is_there(shell: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    run = f"{' '.join(MDSTREAM)} run --duration 1 --streams crypto --report {report}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {run} {shell}"],
        capture_output=True,
        text=True,
        timeout=HANGING_S,
        env=CLEAN,
        check=False,
    )
    found = json.loads(report.read_text())
    assert found["streams"]["crypto"]["state"] == "stopped"
    assert found["duration_s"] >= 1
    assert "Traceback" not in done.stderr
    if shell == ">/dev/full":
        assert done.returncode == 1
        assert "the output cannot be written: No space left on device" in done.stderr
    else:
        assert done.returncode == 0


def test_news_can_be_tailed(tmp_path: Path) -> None:
    with simulator("--rate", "100") as sim:
        urls = ("--stream-url", sim.stream_url, "--data-url", sim.data_url)
        with started("--streams", "news", *urls, env=KEYS) as process:
            streaming(process)
            done = command("tail", "news.articles", "-n", "3", "--from-start")
            assert done.returncode == 0, done.stderr
            header, *rows = done.stdout.splitlines()
            assert "symbols" in header.split("\t")
            assert len(rows) >= 3


def test_the_simulator_comes_back_on_its_port(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with started("--streams", "crypto", "--report", str(report)) as process:
        streaming(process)
        run = run_of(process)
        until(lambda: now(run)["fetch_cycles"].min() > 0)
        [simulated] = [p for p in family(process) if any(c.status == "LISTEN" for c in p.net_connections())]
        simulated.kill()
        log = streaming(process)
        log += stopped(process)[1]
    stream = json.loads(report.read_text())["streams"]["crypto"]
    assert (stream["state"], stream["reason"]) == ("stopped", None), log
    assert stream["reconnects"] >= 1


def test_a_stream_that_lost_its_server_for_good_has_failed(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with simulator("--rate", "100") as sim:
        urls = ("--stream-url", sim.stream_url, "--data-url", sim.data_url)
        run = ("--streams", "crypto", "--report", str(report))
        with started(*run, *urls, env=KEYS) as process:
            streaming(process)
            sim.process.kill()
            logged(process, "connection lost")
            time.sleep(11)  # one that is away for less than 10 s may come back
            stopped(process)
            assert process.returncode == 1
    stream = json.loads(report.read_text())["streams"]["crypto"]
    assert stream["state"] == "failed"
    assert re.match(r"no connection for the last \d\d s", stream["reason"])
    assert stream["messages"] == stream["committed"] + stream["rejected"] + stream["in_flight"]
