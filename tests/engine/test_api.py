"""The Python API as scripts and notebooks use it."""

from __future__ import annotations

import asyncio
import inspect
import io
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mdstream
from mdstream.engine import api
from mdstream.errors import ConfigError, Exit, MdstreamError, NoRunError, UnknownNameError
from mdstream.frames.rundir import list_runs
from mdstream.reading.attach import Attachment
from tests import warm
from tests.running import HANGING_S, engine, settings, simulator, until

SCRIPT = """
import mdstream

with mdstream.Engine({"streams": ["crypto"], "rejects": REJECTS}) as engine:
    for new in engine.tail("crypto.quotes"):
        print(new.height > 0, engine.run == mdstream.attach().run)
        break
print(engine.report["streams"]["crypto"]["state"], engine.exit_code)
"""


@pytest.fixture(autouse=True)
def warm_hosts() -> Iterator[None]:
    """Let engines start warm; that of a script is a new process."""
    with warm.hosts():
        yield


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("REJECTS", repr(str(tmp_path))))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=HANGING_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True\nstopped 0\n"


def test_one_attaches_as_soon_as_the_run_can_be_found(tmp_path: Path) -> None:
    started = mdstream.Engine(settings(None, tmp_path, streams=["crypto"]) | {"credentials": {}})
    script = """
import mdstream, time
from mdstream.errors import NoRunError
while True:
    try:
        run = mdstream.attach()
    except NoRunError:
        time.sleep(0.0005)
    else:
        break
assert run.alive and run.frames is not None
print(run.run)
"""
    waiting = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with started as running:
        found, _ = waiting.communicate(timeout=HANGING_S)
        assert waiting.returncode == 0
        assert found.strip() == running.run


def test_symbols_are_lists_and_no_text(tmp_path: Path) -> None:
    with simulator("--rate", "10") as sim:
        with engine(settings(sim, tmp_path, streams=["crypto"])) as running:
            with pytest.raises(ConfigError, match="lists of names, not a single string"):
                running.subscribe("crypto", "DOGE/USD")
            with pytest.raises(ConfigError, match="no channel 'nonsense'"):
                running.subscribe("crypto", ["DOGE/USD"], ["nonsense"])
            with pytest.raises(ConfigError, match="'news' is not one of"):
                running.unsubscribe("news", ["AAPL"])
            wrong: list[tuple[Any, Any, Any, str]] = [
                (None, ["DOGE/USD"], (), "stream: None is not a string"),
                ("crypto", None, (), "symbols: None is neither a symbol nor a list of symbols"),
                ("crypto", b"x", (), "symbols: b'x' is neither a symbol nor"),
                ("crypto", ["DOGE/USD"], 5, "channels: 5 is neither a channel nor a list of channels"),
            ]
            for stream, symbols, channels, message in wrong:
                with pytest.raises(ConfigError, match=message):
                    running.subscribe(stream, symbols, channels)


@pytest.mark.parametrize("log", [5, "engine.log", io.StringIO()])
def test_a_log_is_a_file(log: Any) -> None:
    with pytest.raises(ConfigError, match=r"log: .* is not a file opened for writing"):
        mdstream.Engine({}, log=log)


def test_thousands_of_symbols_are_one_command(tmp_path: Path) -> None:
    with simulator("--rate", "10") as sim:
        with engine(settings(sim, tmp_path, streams=["stocks"])) as running:
            running.subscribe("stocks", [f"X{i}" for i in range(20_000)], ["trades"])
            running.subscribe("stocks", ["IBM"], ["trades"])
            assert not running.wait(2)
        assert running.exit_code == 0


def test_an_engine_runs_once_at_a_time_and_may_run_again(tmp_path: Path) -> None:
    with simulator("--rate", "10") as sim:
        again = mdstream.Engine(settings(sim, tmp_path, streams=["crypto"]))
        with pytest.raises(MdstreamError, match="is not running"):
            again.subscribe("crypto", ["DOGE/USD"])
        names = set()
        for _ in range(2):
            with again:
                with pytest.raises(MdstreamError, match="already started"):
                    again.start()
                names.add(again.run)
            assert again.exit_code == 0
        assert len(names) == 2


@pytest.mark.cases("N10")
def test_after_its_end_the_frames_of_an_engine_can_still_be_read(tmp_path: Path) -> None:
    with simulator("--rate", "500") as sim:
        running = mdstream.Engine(settings(sim, tmp_path, streams=["crypto"], duration=3))
        assert repr(running) == "<mdstream Engine, not started: crypto>"
        assert running._repr_html_() is None
        with running:
            assert running.frame("crypto.trades", symbols=["BTC/USD"]).columns
            with pytest.raises(UnknownNameError, match="did you mean 'BTC/USD'"):
                running.frame("crypto.trades", symbols=["BTCUSD"])
            running.subscribe("crypto", ["DOGE/USD"])
            assert running.frame("crypto.bars", symbols="DOGE/USD").columns[0] == "symbol"
            assert repr(running) == f"<mdstream Engine, run {running.run}: crypto>"
            assert running.wait(HANGING_S), "it ends by itself"
    assert running.report is not None
    for name, frame in running.report["frames"].items():
        if frame["rows"] and not name.startswith("telemetry."):
            assert running.attachment.rows(name) == frame["rows"], name
            assert running.frame(name).height > 0
    assert running.frame("crypto.trades").height == running.report["frames"]["crypto.trades"]["rows"]
    assert running.frame("crypto.latest").height >= 5
    assert running.frame("telemetry.streams").height > 0
    assert repr(running).startswith("<mdstream Engine, ended, run ")
    assert "ended" in (running._repr_html_() or "")


INTERRUPTED = """
import _thread, psutil, threading, time, mdstream
engine = mdstream.Engine({"streams": ["crypto"], "rejects": REJECTS})
def interrupt():
    while not psutil.Process().children():
        time.sleep(0.01)
    time.sleep(0.3)
    _thread.interrupt_main()
threading.Thread(target=interrupt).start()
try:
    engine.start()
except KeyboardInterrupt:
    print("interrupted")
print(engine.stop())
"""


def test_an_interrupted_start_leaves_nothing_behind(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED.replace("REJECTS", repr(str(tmp_path))))
    before = set(list_runs())
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=HANGING_S, check=False
    )
    assert done.stdout == "interrupted\nNone\n", done.stderr
    assert set(list_runs()) <= before


def write_site(folder: Path, code: str) -> dict[str, str]:
    """Return environment variables that make each Python process run `code` at its start."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.cases("M9")
def test_what_a_process_of_the_engine_prints_is_only_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = 'import atexit, os; os.write(1, b"noise\\n"); atexit.register(os.write, 1, b"{half")'
    for name, value in write_site(tmp_path / "site", noise).items():
        monkeypatch.setenv(name, value)
    values = settings(None, tmp_path, streams=["crypto"]) | {"credentials": {}}
    with engine(values) as running:
        assert running.attachment.alive
    assert running.exit_code == 0
    assert running.report is not None


LINGERING = """
import subprocess, sys
if "mdstream.engine.host" in sys.orig_argv:
    waiting = "while [ ! -e FLAG ]; do sleep 0.05; done"
    subprocess.Popen(["sh", "-c", waiting], close_fds=False, stderr=subprocess.DEVNULL)
"""


@pytest.mark.cases("M9")
def test_the_end_of_a_start_that_failed_is_not_taken_for_that_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    again = mdstream.Engine(settings(None, tmp_path, streams=["crypto"]) | {"credentials": {}})
    with monkeypatch.context() as first:
        for name, value in write_site(tmp_path / "site", LINGERING.replace("FLAG", str(flag))).items():
            first.setenv(name, value)
        first.setattr(api, "_COMPILE_S", 1.0 - again.config.start_timeout_s)
        with pytest.raises(MdstreamError, match="the engine did not start"):
            again.start()
    threading.Timer(0.3, flag.touch).start()  # the lingering process closes its old pipes now
    with again:
        assert again.attachment.alive
    assert again.exit_code == 0


def test_frames_have_the_promised_columns(tmp_path: Path) -> None:
    utc = pl.Datetime("ns", "UTC")
    with simulator("--rate", "200") as sim:
        with engine(settings(sim, tmp_path)) as running:
            run = mdstream.attach(run=running.run)
            until(
                lambda: all(
                    run.rows(n)
                    for n in ("stocks.quotes", "crypto.orderbooks", "options.trades", "news.articles")
                )
            )
            expected = {
                "stocks.trades": "symbol ts price size exchange conditions tape id update recv_ts",
                "stocks.quotes": "symbol ts bid_price bid_size bid_exchange ask_price ask_size ask_exchange conditions tape recv_ts",
                "stocks.bars": "symbol ts open high low close volume trade_count vwap kind recv_ts",
                "stocks.bars_1m": "symbol ts open high low close volume trade_count vwap vwap_volume revised complete recv_ts",
                "crypto.bars_1s": "symbol ts open high low close volume trade_count vwap vwap_volume revised complete recv_ts",
                "options.quotes": "symbol ts bid_price bid_size bid_exchange ask_price ask_size ask_exchange conditions recv_ts",
                "crypto.trades": "symbol ts price size id taker_side recv_ts",
                "crypto.orderbooks": "symbol ts side price size reset recv_ts",
                "news.articles": "id created_at updated_at headline summary author source url content symbols recv_ts",
                "telemetry.cores": "ts core busy_percent user_percent system_percent",
            }
            for name, columns in expected.items():
                frame = run.frame(name)
                assert frame.columns == columns.split(), name
                assert all(
                    frame.schema[c] == utc for c in frame.columns if c in ("ts", "recv_ts", "created_at")
                )
            quotes = run.frame("stocks.quotes").schema
            assert (quotes["bid_price"], quotes["bid_size"]) == (pl.Float64, pl.Float64)
            assert run.frame("crypto.trades").schema["size"] == pl.Float64
            assert run.frame("stocks.trades").schema["id"] == pl.UInt64
            assert {"telemetry.batches", "telemetry.processes", "telemetry.streams"} <= set(run.frames)
            batches = run.frame("telemetry.batches")
            order = ["first_recv_ts", "last_recv_ts", "submit_ts", "start_ts", "end_ts", "commit_ts"]
            for earlier, later in itertools.pairwise(order):
                assert (batches[earlier] <= batches[later]).all(), (earlier, later)


def test_tails_work_in_coroutines_and_end_with_the_engine(tmp_path: Path) -> None:
    async def follow(running: mdstream.Engine) -> int:
        rows, stopping = 0, None
        async for new in running.tail("stocks.trades", from_start=True):
            rows += new.height
            if rows > 100 and stopping is None:
                stopping = asyncio.create_task(asyncio.to_thread(running.stop))
            await asyncio.sleep(0)
        assert stopping is not None
        await stopping
        return rows

    with simulator("--rate", "2000", "--messages", "3000") as sim:
        with engine(settings(sim, tmp_path, streams=["stocks"])) as running:
            rows = asyncio.run(follow(running))
    assert running.report is not None
    assert rows == running.report["frames"]["stocks.trades"]["rows"] > 100


def test_settings_may_be_a_file_a_mapping_or_a_config(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text("streams = ['news']\nworkers = 3\n")
    assert mdstream.Engine(path).config.workers == 3
    assert mdstream.Engine({"streams": ["news"], "workers": 2}).config.workers == 2
    config = mdstream.Engine({"workers": 5}).config
    assert mdstream.Engine(config).config == config
    with pytest.raises(ConfigError, match="unknown setting workerz"):
        mdstream.Engine({"workerz": 2})


def test_what_prevents_a_start_is_raised(tmp_path: Path) -> None:
    with pytest.raises(mdstream.MdstreamError, match="cannot create a run under"):
        mdstream.Engine({"streams": ["news"], "frames": {"directory": str(tmp_path / "none")}}).start()


def test_without_an_engine_there_is_nothing_to_attach_to(tmp_path: Path) -> None:
    with pytest.raises(NoRunError, match="start one with `mdstream run`"):
        mdstream.attach(directory=tmp_path)
    with pytest.raises(mdstream.MdstreamError, match="not started"):
        _ = mdstream.Engine({"streams": ["news"]}).frames


def test_an_engine_that_failed_says_so(tmp_path: Path) -> None:
    with simulator("--fault", "auth=402") as sim:
        with engine(settings(sim, tmp_path, streams=["crypto"])) as running:
            assert running.wait(HANGING_S), "an engine without running streams ends by itself"
    assert running.exit_code == Exit.CREDENTIALS
    assert running.report is not None
    assert running.report["streams"]["crypto"]["state"] == "failed"


def test_importing_is_cheap_and_readers_do_not_load_the_engine() -> None:
    code = (
        "import sys, mdstream; assert 'polars' not in sys.modules, 'polars';"
        "mdstream.attach; heavy = {'aiohttp', 'websockets', 'uvloop', 'mdstream.feed.feed', 'workers', 'typer'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANGING_S)


def test_the_supervisor_loads_neither_feed_nor_simulator() -> None:
    code = (
        "import sys, mdstream.engine.report, mdstream.engine.supervisor;"
        "heavy = {'aiohttp', 'uvloop', 'mdstream.feed.feed', 'mdstream.simulator.server', 'numba', 'pandas'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANGING_S)


@pytest.mark.parametrize("name", ["frame", "book", "chain", "bars", "compare_bars"])
def test_an_engine_reads_as_an_attachment_does(name: str) -> None:
    assert list(inspect.signature(getattr(mdstream.Engine, name)).parameters) == list(
        inspect.signature(getattr(Attachment, name)).parameters
    )
    with pytest.raises(MdstreamError, match="not started"):
        getattr(mdstream.Engine({"streams": ["crypto"]}), name)("crypto")
