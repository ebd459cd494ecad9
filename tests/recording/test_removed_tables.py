"""What is removed from the store during a run is recorded again, or reported as missed."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mdstream.frames.head import Head
from mdstream.reading.attach import Attachment
from mdstream.recording import recorder
from mdstream.recording.recorder import Recorder
from mdstream.recording.recorder_state import Recorded
from tests.piping import Rig, rig
from tests.recording.stored import read_store
from tests.recording.test_recorder import make_store_config, make_trade, mark_ended
from tests.running import HANGING_S

TRADES = "stocks.trades"


async def wait_until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(HANGING_S):
        while not condition():
            await asyncio.sleep(0.05)


async def feed(r: Rig, *numbers: int) -> None:
    await r.feed([make_trade(number, number % 60) for number in numbers])
    await r.pipeline.drain()


def read_ids(tmp_path: Path) -> list[int]:
    return sorted(read_store(tmp_path / "store", TRADES)["id"].to_list())


def is_recorded(at_work: Recorder, rows: int) -> bool:
    return at_work.state.frames.get(TRADES, Recorded()).table_past == rows


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("what", ["", "live", "live/stocks.trades", "live/stocks.trades/_delta_log"])
def test_a_table_without_new_rows_is_recorded_again_at_the_end(
    tmp_path: Path, what: str, workers: int
) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            at_work = Recorder(r.run, make_store_config(tmp_path, workers=workers))
            running = asyncio.ensure_future(at_work.run())
            await feed(r, 1, 2, 3)
            await wait_until(lambda: is_recorded(at_work, 3))
            shutil.rmtree(tmp_path / "store" / what)
            await r.drain()
            mark_ended(r.run)
            state = await asyncio.wait_for(running, HANGING_S)
            assert state.finished
            assert (state.frames[TRADES].stored, state.missed) == (3, 0)
            assert read_ids(tmp_path) == [1, 2, 3]

    uvloop.run(go())


def test_a_removed_table_is_recorded_again_during_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "CHECK_S", 0.3)

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            at_work = Recorder(r.run, make_store_config(tmp_path))
            running = asyncio.ensure_future(at_work.run())
            await feed(r, 1, 2, 3)
            table = tmp_path / "store" / "live" / TRADES
            for _ in range(2):
                await wait_until(lambda: is_recorded(at_work, 3))
                shutil.rmtree(table)
                await wait_until(table.exists)
            await wait_until(lambda: is_recorded(at_work, 3))
            assert read_ids(tmp_path) == [1, 2, 3]
            at_work.stop()
            await asyncio.wait_for(running, HANGING_S)

    uvloop.run(go())


@pytest.mark.parametrize("late", [0, 2])
@pytest.mark.parametrize("more", [False, True])
def test_rows_of_a_removed_table_that_the_frame_has_dropped_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, more: bool, late: int
) -> None:
    """Rows that the frame had dropped before the recorder started were never to be recorded."""
    first = late

    async def go() -> None:
        nonlocal first
        async with rig("stocks", 0, tmp_path) as r:
            at_work = Recorder(r.run, make_store_config(tmp_path))
            monkeypatch.setattr(Head, "first_row", property(lambda head: first * (head.rows >= 5)))
            await feed(r, 0, 1, 2, 3, 4)
            running = asyncio.ensure_future(at_work.run())
            await wait_until(lambda: is_recorded(at_work, 5))
            assert at_work.state.frames[TRADES].stored == 5 - late
            first = 4
            shutil.rmtree(tmp_path / "store")
            if more:
                await feed(r, 5)
            await r.drain()
            mark_ended(r.run)
            state = await asyncio.wait_for(running, HANGING_S)
            frame = state.frames[TRADES]
            assert (frame.stored, frame.missed) == (1 + more, 4 - late)
            assert read_ids(tmp_path) == [4, 5][: 1 + more]

    uvloop.run(go())
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    [record] = [each for each in errors if each.getMessage().startswith(TRADES)]
    assert record.getMessage() == f"{TRADES}: {4 - late} rows are lost: the frame no longer has them"


def test_a_table_that_is_put_back_from_a_copy_gets_what_it_lacks(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            at_work = Recorder(r.run, make_store_config(tmp_path))
            running = asyncio.ensure_future(at_work.run())
            await feed(r, 1, 2)
            await wait_until(lambda: is_recorded(at_work, 2))
            shutil.copytree(tmp_path / "store", tmp_path / "copy")
            await feed(r, 3)
            await wait_until(lambda: is_recorded(at_work, 3))
            shutil.rmtree(tmp_path / "store")
            (tmp_path / "copy").rename(tmp_path / "store")
            await r.drain()
            mark_ended(r.run)
            state = await asyncio.wait_for(running, HANGING_S)
            assert (state.frames[TRADES].stored, state.missed) == (3, 0)
            assert read_ids(tmp_path) == [1, 2, 3]

    uvloop.run(go())


def test_rows_that_were_missed_are_not_taken_for_a_removed_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A ticket whose rows were all dropped commits nothing: the table then ends before them."""
    from workers import recording

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            at_work = Recorder(r.run, make_store_config(tmp_path, workers=0))
            running = asyncio.ensure_future(at_work.run())
            await feed(r, 1, 2)
            await wait_until(lambda: is_recorded(at_work, 2))
            with monkeypatch.context() as dropped:
                read = recording.FrameReader.read
                dropped.setattr(
                    recording.FrameReader,
                    "read",
                    lambda reader, start, stop: (stop, read(reader, stop, stop)[1]),
                )
                await feed(r, 3)
                await wait_until(lambda: at_work.state.frames[TRADES].missed)
            await r.drain()
            mark_ended(r.run)
            state = await asyncio.wait_for(running, HANGING_S)
            assert (state.frames[TRADES].stored, state.frames[TRADES].missed) == (2, 1)
            assert Attachment(r.run).rows(TRADES) == 3

    uvloop.run(go())
    assert "removed or replaced" not in caplog.text
