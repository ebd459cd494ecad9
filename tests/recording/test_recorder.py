"""Each row of a frame is stored once, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import uvloop
from deltalake import DeltaTable

from mdstream.config import StoreConfig
from mdstream.errors import ConfigError, NoWorkersError, StoreError
from mdstream.frames import rundir
from mdstream.frames.rundir import RunDirectory
from mdstream.handoff.record_ticket import RecordTicket
from mdstream.pool import ipc_names
from mdstream.pool.pool import WorkerPool
from mdstream.reading.attach import Attachment
from mdstream.recording import recorder, recorder_state
from mdstream.recording.recorder import Recorder
from mdstream.store.catalogue import scan
from mdstream.streams.spec import PayloadKind
from mdstream.telemetry.state import FeedState
from tests import warm
from tests.feed.test_pipeline import payloads
from tests.piping import Payload, Rig, rig
from tests.recording.stored import list_recorded_frames, read_frames, read_store
from tests.running import HANGING_S, until
from workers import recording


def make_store_config(path: Path, **settings: Any) -> StoreConfig:
    return StoreConfig(str(path / "store"), **{"every_s": 0.2, **settings})


def mark_ended(run: Path) -> None:
    """Mark the run of a rig as ended, as a supervisor does."""
    directory = RunDirectory.__new__(RunDirectory)
    directory.path, directory.run = run, run.name
    directory.describe(streams=["stocks"], feeds={"stocks": "sip"}, ended=True)


def assert_recorded(run: Attachment, store: Path | str, **options: Any) -> int:
    """Assert that every row is stored once; return their number."""
    rows = 0
    for name, expected in read_frames(run).items():
        if expected.height:
            found = read_store(store, name, **options)
            assert found.equals(expected), name
            rows += found.height
    return rows


@pytest.mark.parametrize("stream", ["stocks", "news", "crypto"])
def test_every_row_of_every_frame_is_recorded_once(tmp_path: Path, stream: str) -> None:
    async def go() -> None:
        async with rig(stream, 1, tmp_path) as r:
            at_work = asyncio.ensure_future(Recorder(r.run, make_store_config(tmp_path)).run())
            for part in range(4):
                await r.feed(payloads(stream, 4_000, 20)[part * 50 : (part + 1) * 50])
                await asyncio.sleep(0.4)
            await r.drain()
            mark_ended(r.run)
            reported = await asyncio.wait_for(at_work, HANGING_S)
            run = Attachment(r.run)
            rows = assert_recorded(run, tmp_path / "store")
            assert reported.finished
            assert reported.rows == rows == sum(run.rows(name) for name in list_recorded_frames(r.run))
            assert reported.missed == 0
            assert recorder_state.read(r.run) == reported

    uvloop.run(go())


def test_tables_are_sorted_partitioned_and_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "COMPACT_COMMITS", 3)

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            recorder = Recorder(r.run, make_store_config(tmp_path, every_s=0.1, keep_hours=0))
            at_work = asyncio.ensure_future(recorder.run())
            everything = payloads("stocks", 4_000, 20)
            for start in range(0, 200, 25):
                await r.feed(everything[start : start + 25])
                await r.pipeline.drain()
                rows = Attachment(r.run).rows("stocks.quotes")
                while recorder.state.frames.get("stocks.quotes", recorder_state.Recorded()).past < rows:
                    await asyncio.sleep(0.05)
            await r.drain()
            mark_ended(r.run)
            reported = await asyncio.wait_for(at_work, HANGING_S)
            assert_recorded(Attachment(r.run), tmp_path / "store")
            commits = reported.frames["stocks.quotes"].commits
            assert commits > 4
            table = DeltaTable(str(tmp_path / "store" / "live" / "stocks.quotes"))
            assert table.metadata().partition_columns == ["feed", "date"]
            assert len(table.file_uris()) < commits
            files = {str(p) for p in Path(table.table_uri.removeprefix("file://")).rglob("*.parquet")}
            assert len(files) < commits, "replaced files are removed"
            for path in table.file_uris():
                one = pl.read_parquet(path)
                assert one["ts"].len() > 0

    uvloop.run(go())


def test_one_commit_is_sorted_by_symbol_and_time(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await r.feed(payloads("stocks", 4_000, 20))
            await r.drain()
            mark_ended(r.run)
            await Recorder(r.run, make_store_config(tmp_path)).run()
            for name in ("stocks.trades", "stocks.quotes"):
                for path in DeltaTable(str(tmp_path / "store/live" / name)).file_uris():
                    frame = pl.read_parquet(path)
                    assert frame.equals(frame.sort("symbol", "ts", "ts_ns", maintain_order=True))

    uvloop.run(go())


def make_trade(number: int, second: int) -> Payload:
    text = (
        f'[{{"T":"t","S":"AAPL","i":{number},"x":"D","p":100.5,"s":10,"c":["@"],"z":"C",'
        f'"t":"2026-11-27T15:30:{second:02d}Z"}}]'
    )
    return text.encode(), PayloadKind.JSON, time.time_ns()


def test_a_row_that_the_table_cannot_hold_is_left_out_counted_and_blocks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    largest = (1 << 63) - 1
    numbers = [7, largest + 1, largest, (1 << 64) - 1, 8]

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await r.feed([make_trade(number, second) for second, number in enumerate(numbers)])
            await r.drain()
            mark_ended(r.run)
            recorded = await asyncio.wait_for(Recorder(r.run, make_store_config(tmp_path)).run(), 60)
            assert recorded.finished
            assert not recorded.trouble
            frame = recorded.frames["stocks.trades"]
            assert (frame.past, frame.stored, frame.unstorable) == (5, 3, 2)
            stored = read_store(tmp_path / "store", "stocks.trades")
            assert sorted(stored["id"].to_list()) == [7, 8, largest]
            rejects = scan("stocks.rejects", tmp_path / "store").sort("place").collect()
            assert rejects["place"].to_list() == ["stocks.trades, row 1", "stocks.trades, row 3"]
            assert [json.loads(each)["id"] for each in rejects["bytes"]] == [largest + 1, (1 << 64) - 1]

    uvloop.run(go())
    text = "stocks.trades: 2 rows cannot be stored and were left out: row 1: id 9223372036854775808 is more"
    assert text in caplog.text


@pytest.mark.cases("V1")
def test_rows_that_a_table_refuses_are_set_aside_and_block_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_AGAIN_S", 0.1)
    table = tmp_path / "store" / "live" / "stocks.trades"
    poisonous = [3, 4, 9, 24, 39]

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            recorder = Recorder(r.run, make_store_config(tmp_path))
            at_work = asyncio.ensure_future(recorder.run())
            await r.feed([make_trade(0, 0), (b"nonsense", PayloadKind.JSON, time.time_ns())])
            while not DeltaTable.is_deltatable(str(table)):
                await asyncio.sleep(0.05)
            refused = ", ".join(map(str, poisonous))
            DeltaTable(str(table)).alter.add_constraint({"known": f"id NOT IN ({refused})"})
            await r.feed([make_trade(number, number) for number in range(1, 40)])
            await r.drain()
            mark_ended(r.run)
            state = await asyncio.wait_for(at_work, 60)
            assert state.finished
            assert not state.trouble
            frame = state.frames["stocks.trades"]
            assert (frame.past, frame.stored, frame.unstorable) == (40, 35, 5)
            assert Attachment(r.run).rows("stocks.rejects") == 1

    uvloop.run(go())
    stored = read_store(tmp_path / "store", "stocks.trades")["id"].to_list()
    assert sorted(stored) == [number for number in range(40) if number not in poisonous]
    rejects = scan("stocks.rejects", tmp_path / "store").collect()
    [received] = rejects.filter(pl.col("kind") == "json").rows(named=True)
    assert (received["bytes"], received["place"]) == (b"nonsense", "whole payload")
    rows = rejects.filter(pl.col("kind") == "row")
    assert sorted(json.loads(each)["id"] for each in rows["bytes"]) == poisonous
    assert rows["reason"].str.contains("1 rows failed validation check").all()
    assert rows["recv_ts"].dt.date().unique().to_list() == [datetime.now(UTC).date()]


@pytest.mark.cases("V1")
def test_rows_wait_while_the_store_is_at_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that takes nothing refuses no row: all of them are stored as soon as it takes some again."""
    monkeypatch.setattr(recorder, "_AGAIN_S", 0.1)
    live = tmp_path / "store" / "live"

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            at_work = Recorder(r.run, make_store_config(tmp_path))
            recording = asyncio.ensure_future(at_work.run())
            live.parent.mkdir()
            live.write_text("not a folder")
            await r.feed([make_trade(number, number) for number in range(20)])
            await r.drain()
            mark_ended(r.run)
            while at_work._failures.get("stocks.trades", 0) < 6:
                await asyncio.sleep(0.05)
            live.unlink()
            state = await asyncio.wait_for(recording, 60)
            assert (state.finished, state.unstorable) == (True, 0)

    uvloop.run(go())
    assert read_store(tmp_path / "store", "stocks.trades").height == 20
    assert not (live / "stocks.rejects").exists()


@pytest.mark.cases("V1")
def test_a_fault_of_the_store_that_ends_at_any_step_is_none_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorder halves the rows to find the one that is refused: there is none, whenever the fault ends."""
    commit = recording._append
    left = 0

    def fail_at_first(*args: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError("Input/output error")
        commit(*args)

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await r.feed([make_trade(number, number) for number in range(3)])
            await r.drain()
            monkeypatch.setattr(recording, "_append", fail_at_first)
            for faults in range(10):
                nonlocal left
                left = faults
                table = str(tmp_path / f"store{faults}" / "live" / "stocks.trades")
                past = stored = 0
                while past < 3:
                    ticket = RecordTicket(
                        str(r.run), "stocks.trades", past, 3, past, table, "sip", {}, True
                    )
                    with contextlib.suppress(StoreError):
                        receipt = recording.record(ticket)
                        assert receipt.lost.unstorable == 0, receipt.reasons
                        past, stored = receipt.past, stored + receipt.rows
                assert stored == read_store(tmp_path / f"store{faults}", "stocks.trades").height == 3

    uvloop.run(go())


def test_a_ticket_without_any_row_to_store_is_done_all_the_same(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            recorder = Recorder(r.run, make_store_config(tmp_path))
            recording = asyncio.ensure_future(recorder.run())
            for second, number in enumerate((1 << 63, 7, 1 << 63, 8), start=1):
                await r.feed([make_trade(number, second)])
                while recorder.state.frames.get("stocks.trades", recorder_state.Recorded()).past < second:
                    await asyncio.sleep(0.05)
            await r.drain()
            mark_ended(r.run)
            assert (await asyncio.wait_for(recording, HANGING_S)).finished
            assert read_store(tmp_path / "store", "stocks.trades")["id"].to_list() == [7, 8]

    uvloop.run(go())


def test_a_recorder_that_is_stopped_ends_although_more_rows_come(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            at_work = Recorder(r.run, make_store_config(tmp_path))
            ending = asyncio.ensure_future(at_work.run())
            everything, part = payloads("stocks", 4_000, 1), 0
            deadline = time.monotonic() + 30
            while not ending.done() and time.monotonic() < deadline:
                await r.feed(everything[part : part + 4])
                await asyncio.sleep(0)
                part = (part + 4) % 3_000
                if at_work.state.rows:
                    at_work.stop()
            assert ending.done(), "it must not wait for rows that come after its stop"
            assert (await ending).rows
            assert not (await ending).finished

    uvloop.run(go())


def test_a_run_has_one_recorder(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            with recorder_state.RecorderLock(r.run), pytest.raises(ConfigError, match="already being"):
                await Recorder(r.run, make_store_config(tmp_path)).run()

    uvloop.run(go())


def start_recorder(run: Path, store: StoreConfig) -> subprocess.Popen[bytes]:
    settings = {
        f"MDSTREAM_STORE__{name.upper()}": str(getattr(store, name))
        for name in StoreConfig.__struct_fields__
    }
    return warm.start(
        *("mdstream", "record", "--run", str(run), "--quiet"),
        env={**os.environ, **settings},
        start_new_session=True,
    )


async def record_through_kills(r: Rig, store: StoreConfig, kills: int, seed: int) -> None:
    """Feed a rig until its recorder, or one of its workers, has been killed `kills` times."""
    chance = random.Random(seed)
    everything = payloads("stocks", 30_000, 10)
    at, killed = 0, 0
    process = start_recorder(r.run, store)
    while killed < kills:
        moment = time.monotonic() + chance.uniform(0.1, 2.5)
        while time.monotonic() < moment:
            part = everything[at % len(everything) :][:20]
            await r.feed(part)
            at += 20
            await asyncio.sleep(0.02)
        if process.poll() is None:
            victims = [psutil.Process(process.pid)]
            victims += victims[0].children(recursive=True)
            chance.choice(victims).kill()
            killed += 1
        await asyncio.sleep(0.05)
        if process.poll() is not None:
            process = start_recorder(r.run, store)
    await r.drain()
    mark_ended(r.run)
    for _ in range(3):
        if await asyncio.to_thread(process.wait, HANGING_S) == 0:
            return
        process = start_recorder(r.run, store)
    raise AssertionError("the recorder did not end")


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_recorder_killed_at_any_moment_brings_each_row_once(tmp_path: Path, kills: int) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await record_through_kills(r, make_store_config(tmp_path), kills, seed=kills)
            assert assert_recorded(Attachment(r.run), tmp_path / "store") > 1_000

    uvloop.run(go())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500k", "none", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_table_that_is_removed_is_made_anew_of_what_the_frame_has(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 1, tmp_path) as r:
            at_work = asyncio.ensure_future(Recorder(r.run, make_store_config(tmp_path)).run())
            everything = payloads("stocks", 4_000, 20)
            await r.feed(everything[:100])
            live = tmp_path / "store" / "live"
            while not (live.exists() and len(list(live.iterdir())) > 1):
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            shutil.rmtree(live)
            await r.feed(everything[100:])
            await r.drain()
            mark_ended(r.run)
            assert (await asyncio.wait_for(at_work, HANGING_S)).finished
            assert assert_recorded(Attachment(r.run), tmp_path / "store") > 4_000

    uvloop.run(go())


@pytest.mark.cases("M3")
def test_a_recorder_without_workers_ends_with_an_error_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_REBUILD_S", 0.0)

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await r.feed(payloads("stocks", 1_000, 20))
            start = WorkerPool._new_crew
            with monkeypatch.context() as patch:

                async def start_once(pool: WorkerPool) -> None:
                    if pool.rebuilds:
                        raise BrokenExecutor("it died as it started")
                    await start(pool)
                    os.kill(pool.pids[0], signal.SIGKILL)

                patch.setattr(WorkerPool, "_new_crew", start_once)
                with pytest.raises(NoWorkersError, match="die as they start"):
                    await asyncio.wait_for(Recorder(r.run, make_store_config(tmp_path)).run(), 60)
            await r.drain()
            mark_ended(r.run)
            assert (await asyncio.wait_for(Recorder(r.run, make_store_config(tmp_path)).run(), 60)).finished
            assert assert_recorded(Attachment(r.run), tmp_path / "store") > 900

    uvloop.run(go())


def test_a_full_disk_is_reported_corrupts_nothing_and_recording_goes_on(
    tmp_path: Path, small_disk: Path
) -> None:
    async def go() -> None:
        async with rig("stocks", 1, tmp_path) as r:
            at_work = asyncio.ensure_future(Recorder(r.run, make_store_config(small_disk)).run())
            everything = payloads("stocks", 40_000, 20)
            for start in range(0, len(everything), 200):
                await r.feed(everything[start : start + 200])
                await asyncio.sleep(0.1)
            await r.drain()
            while (reported := recorder_state.read(r.run)) is None or not reported.trouble:
                await asyncio.sleep(0.1)
            assert "no room" in reported.trouble
            for table in (small_disk / "store" / "live").iterdir():
                if (table / "_delta_log").exists():
                    pl.read_delta(str(table))  # stored rows can be read
            subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
            mark_ended(r.run)
            reported = await asyncio.wait_for(at_work, HANGING_S)
            assert reported.finished
            assert not reported.trouble
            assert assert_recorded(Attachment(r.run), small_disk / "store") > 40_000

    uvloop.run(go())


# -- the engine


def start_engine(tmp_path: Path, *more: str, workers: str = "0") -> subprocess.Popen[bytes]:
    command = [
        "mdstream",
        "run",
        "--plain",
        "--streams",
        "stocks,crypto",
        "--workers",
        workers,
        "--record",
        "--store",
        str(tmp_path / "store"),
        "--report",
        str(tmp_path / "report.json"),
        *more,
    ]
    settings = {
        "MDSTREAM_FRAMES__DIRECTORY": str(tmp_path),
        "MDSTREAM_STORE__EVERY_S": "0.5",
        "MDSTREAM_REJECTS": str(tmp_path),
    }
    with (tmp_path / "log").open("ab") as log:
        return warm.start(
            *command,
            env={**os.environ, **settings},
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )


def test_a_run_that_records_is_whole_in_the_store(tmp_path: Path) -> None:
    assert start_engine(tmp_path, "--duration", "4").wait(HANGING_S) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    reported = report["recorded"]
    assert reported["whole"]
    assert reported["missed"] == 0
    frames = {name: f["rows"] for name, f in report["frames"].items() if name in reported["frames"]}
    assert {"stocks.trades", "stocks.quotes", "crypto.orderbooks"} <= set(frames)
    for name, rows in frames.items():
        assert reported["frames"][name] == rows
        if rows:
            stored = pl.scan_delta(f"{tmp_path}/store/live/{name}").select(pl.len())
            assert rows == stored.collect().item()
    assert not list(tmp_path.glob("mdstream-*")), "the folder of the run is removed"


VICTIMS = ("supervisor", "all", "feed", "feed's worker", "recorder", "recorder's worker")


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_was_committed_to_a_frame_before_a_kill_is_in_the_store_once(
    tmp_path: Path, victim: str
) -> None:
    kill_and_compare(tmp_path, victim, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_at_a_hundred_random_moments(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kill_and_compare(tmp_path, chance.choice(VICTIMS), chance.uniform(0.0, 3.0))


def kill_and_compare(tmp_path: Path, victim: str, after_s: float) -> None:
    """Kill a part of a recording engine some time after its start, and compare the store."""
    process = start_engine(tmp_path, workers="1" if victim == "feed's worker" else "0")
    try:
        run = until(lambda: next(iter(rundir.list_runs(tmp_path)), None))
        until(lambda: (reported := recorder_state.read(run)) and reported.rows > 500)
        time.sleep(after_s)
        if victim in ("supervisor", "all"):
            _kill_the_supervisor(process, tmp_path, run, everything=victim == "all")
        else:
            _kill_a_part(process, tmp_path, run, victim)
    finally:
        if process.poll() is None:
            process.kill()
        for path in rundir.list_runs(tmp_path):
            shutil.rmtree(path, ignore_errors=True)
        ipc_names.reap()  # the next start would do the same


def _kill_a_part(process: subprocess.Popen[bytes], tmp_path: Path, run: Path, victim: str) -> None:
    """Kill a part: the engine continues, and at its end the store has each row once."""
    reported = recorder_state.read(run)
    assert reported is not None
    pid = reported.pid
    if victim.startswith("feed"):
        pid = FeedState(rundir.state_path(run, "stocks"))["pid"]
    if victim.endswith("worker"):
        below = psutil.Process(pid).children(recursive=True)
        workers = [p for p in below if "resource_tracker import" not in " ".join(p.cmdline())]
        pid = next(p.pid for p in workers if not p.children())  # not the fork server
    os.kill(pid, signal.SIGKILL)
    until(lambda: (now := recorder_state.read(run)) and now.rows > reported.rows + 1_000)
    process.send_signal(signal.SIGINT)
    assert process.wait(HANGING_S) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["recorded"]["whole"]
    for frame, rows in report["recorded"]["frames"].items():
        assert rows == report["frames"][frame]["rows"]
        if rows:
            found = read_store(tmp_path / "store", frame)
            assert found.height == rows
            # The feed that takes over may publish bars again. Then they are duplicates in the frame too.
            assert "bars" in frame or not found.is_duplicated().any(), frame


def _kill_the_supervisor(
    process: subprocess.Popen[bytes], tmp_path: Path, run: Path, everything: bool
) -> None:
    """Kill the supervisor: its recorder, or (`everything`) that of the next run, stores the rest."""
    reported = recorder_state.read(run)
    assert reported is not None
    # The recorder is suspended while the test reads the final frames.
    recorder_ = psutil.Process(reported.pid)
    family = [recorder_, *recorder_.children(recursive=True)]
    for each in family:
        each.suspend()
    others = [p for p in psutil.Process(process.pid).children(recursive=True) if p not in family]
    process.kill()
    process.wait()
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in others))
    expected = {name: rows for name, rows in read_frames(Attachment(run)).items() if rows.height}
    assert expected
    for each in family:
        each.kill() if everything else each.resume()
    if everything:
        assert run.exists(), "the unrecorded run must stay"
        # The next run finds the dead one.
        assert start_engine(tmp_path, "--duration", "1").wait(HANGING_S) == 0
    until(lambda: not run.exists())
    for name, rows in expected.items():
        found = read_store(tmp_path / "store", name)
        if everything:  # the store also has rows of the second run
            assert "bars" in name or not found.is_duplicated().any(), name
            found = found.join(rows, on=rows.columns, how="semi", nulls_equal=True)
        assert found.equals(rows), name
