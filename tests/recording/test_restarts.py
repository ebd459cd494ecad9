"""A restarted recorder knows what the earlier ones have missed, also if they were killed at a bad moment."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mdstream.errors import StoreError
from mdstream.frames.head import Head
from mdstream.handoff.record_ticket import Lost, RecordTicket
from mdstream.recording import recorder_state
from mdstream.recording.recorder import Recorder
from mdstream.recording.recorder_state import Recorded, RecorderState
from tests.piping import Rig, rig
from tests.recording.test_recorder import make_store_config, make_trade, mark_ended
from tests.recording.test_removed_tables import TRADES, feed, is_recorded, read_ids, wait_until
from tests.running import HANGING_S
from workers import recording


def noted(r: Rig) -> dict[str, Recorded]:
    """Return what recorders have noted of the frames."""
    state = recorder_state.read(r.run)
    return state.frames if state else {}


async def record_until(r: Rig, tmp_path: Path, past: int) -> None:
    """Record up to a row, then stop like a recorder that is killed."""
    at_work = Recorder(r.run, make_store_config(tmp_path, workers=0))
    running = asyncio.ensure_future(at_work.run())
    await wait_until(lambda: is_recorded(at_work, past) and noted(r).get(TRADES, Recorded()).past == past)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def record_the_rest(r: Rig, tmp_path: Path) -> RecorderState:
    await r.drain()
    mark_ended(r.run)
    at_work = Recorder(r.run, make_store_config(tmp_path, workers=0))
    return await asyncio.wait_for(at_work.run(), HANGING_S)


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers of trades that the frame has dropped; a test adds some."""
    rows: set[int] = set()
    read: Any = recording.FrameReader.read

    def read_kept(reader: Any, start: int, stop: int) -> Any:
        while start < stop and start in rows and reader.name == TRADES:
            start += 1
        return start, read(reader, start, stop)[1]

    monkeypatch.setattr(recording.FrameReader, "read", read_kept)
    return rows


@pytest.mark.parametrize("is_noted", [True, False])
def test_what_earlier_recorders_missed_is_in_the_sum(
    tmp_path: Path, dropped: set[int], is_noted: bool
) -> None:
    """Also if one was killed after a commit, and before it could note its state."""

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            dropped.update({0, 1, 4})
            for last in (3, 6):  # of three rows, the first ones are gone
                await feed(r, *range(last - 3, last))
                if last == 6:
                    dropped.add(3)
                await record_until(r, tmp_path, last)
                if not is_noted:
                    (r.run / "recorder.json").unlink(missing_ok=True)
            await feed(r, 6)
            state = await record_the_rest(r, tmp_path)
            trades = state.frames[TRADES]
            assert (state.missed, trades.stored, trades.past) == (4, 3, 7)
            assert read_ids(tmp_path) == [2, 5, 6]
            assert trades.commits == (3 if is_noted else 1)

    uvloop.run(go())


def test_rows_that_became_rejects_are_in_the_sum(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await r.feed([make_trade(1 << 63, 1), make_trade(7, 2)])
            await r.pipeline.drain()
            await record_until(r, tmp_path, 2)
            (r.run / "recorder.json").unlink(missing_ok=True)
            await feed(r, 8)
            state = await record_the_rest(r, tmp_path)
            assert (state.frames[TRADES].unstorable, state.frames[TRADES].stored) == (1, 2)
            assert read_ids(tmp_path) == [7, 8]

    uvloop.run(go())


def test_rows_before_a_late_start_are_not_taken_for_recorded_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await feed(r, 0, 1, 2)
            with monkeypatch.context() as late:
                late.setattr(Head, "first_row", property(lambda head: 2 * (head.rows >= 3)))
                await record_until(r, tmp_path, 3)
            (r.run / "recorder.json").unlink(missing_ok=True)
            await feed(r, 3)
            state = await record_the_rest(r, tmp_path)
            assert (state.frames[TRADES].stored, state.missed) == (2, 0)
            assert read_ids(tmp_path) == [2, 3]

    uvloop.run(go())


def test_rows_that_are_dropped_before_the_first_commit_are_missed_also_after_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropped: set[int]
) -> None:
    def refuse(*_: Any) -> None:
        raise StoreError("store: away")

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await feed(r, 0, 1, 2)
            with monkeypatch.context() as away:
                away.setattr(recording, "_append", refuse)
                at_work = Recorder(r.run, make_store_config(tmp_path, workers=0))
                running = asyncio.ensure_future(at_work.run())
                await wait_until(lambda: at_work.state.trouble and TRADES in noted(r))
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
                away.setattr(recording, "find_recorded", refuse)  # the next one learns nothing at all
                second = Recorder(r.run, make_store_config(tmp_path, workers=0))
                running = asyncio.ensure_future(second.run())
                await wait_until(lambda: second.state.trouble)
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
            dropped.update({0, 1})
            monkeypatch.setattr(Head, "first_row", property(lambda head: 2 * (head.rows >= 3)))
            state = await record_the_rest(r, tmp_path)
            assert (state.frames[TRADES].missed, state.frames[TRADES].stored) == (2, 1)

    uvloop.run(go())


def test_a_ticket_that_is_done_twice_counts_what_it_missed_once(tmp_path: Path, dropped: set[int]) -> None:
    """The worker may have died between commit and answer."""

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await feed(r, 0, 1, 2)
            await r.drain()
            dropped.add(0)
            table = str(tmp_path / "store" / "live" / TRADES)
            ticket = RecordTicket(str(r.run), TRADES, 0, 3, 0, table, "sip", {})
            first, again = recording.record(ticket), recording.record(ticket)
            assert (first.past, first.rows, first.lost) == (3, 2, Lost(missed=1))
            assert (again.past, again.rows, again.lost) == (3, 0, Lost(missed=1))

    uvloop.run(go())
