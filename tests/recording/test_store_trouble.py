"""A store that cannot be written is reported in one short line, and not again and again."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from pathlib import Path

import pytest
import uvloop

from mdstream.recording import recorder
from mdstream.recording.recorder import Recorder
from mdstream.store.objects import find_errno
from tests.piping import rig
from tests.recording.stored import read_store
from tests.recording.test_recorder import make_store_config, make_trade, mark_ended
from tests.recording.test_removed_tables import TRADES, feed, is_recorded, wait_until
from tests.running import HANGING_S, tmpfs


@pytest.mark.parametrize("is_new", [False, True])
def test_a_store_that_becomes_read_only_is_one_short_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_new: bool
) -> None:
    """Whether or not the tables exist already; no row is at fault, however often it is tried."""
    monkeypatch.setattr(recorder, "_AGAIN_S", 0.1)

    async def go(disk: Path) -> None:
        async with rig("stocks", 0, tmp_path) as r:
            at_work = Recorder(r.run, make_store_config(disk))
            running = asyncio.ensure_future(at_work.run())
            if not is_new:
                await feed(r, 1)
                await wait_until(lambda: is_recorded(at_work, 1))
                await wait_until(lambda: not at_work._tasks)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            await r.feed([make_trade(number, number) for number in range(2, 40)])
            await wait_until(lambda: at_work._failures.get(TRADES, 0) > 5)
            trouble = at_work.state.trouble
            assert trouble.startswith(f"store: {disk}")
            assert ": Read-only file system. Recording resumes when it can be written" in trouble
            assert len(trouble) < len(str(disk)) + 120
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            await r.drain()
            mark_ended(r.run)
            state = await asyncio.wait_for(running, HANGING_S)
            assert (state.trouble, state.unstorable, state.missed) == ("", 0, 0)
            assert read_store(disk / "store", TRADES).height == 39 - is_new

    with tmpfs(tmp_path / "disk", 20) as disk:
        uvloop.run(go(disk))
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("Read-only" in text for text in said) == 1, said
    assert said[-1] == "recording resumed"


def test_reasons_that_follow_each_other_are_published_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_work, now = Recorder(tmp_path, make_store_config(tmp_path)), 1000.0
    monkeypatch.setattr(recorder.time, "monotonic", lambda: now)
    for second in range(130):
        now = 1000.0 + second
        at_work._set_trouble("a", f"reason {second}")
    assert [record.getMessage() for record in caplog.records] == ["reason 0", "reason 60", "reason 120"]
    at_work._set_trouble("a", "")
    at_work._set_trouble("a", "another")
    assert [record.getMessage() for record in caplog.records][3:] == ["recording resumed", "another"]
    assert at_work.state.trouble == "another"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Unable to open file /x#1: Read-only file system (os error 30)", 30),
        ('Error: Os { code: 13, kind: PermissionDenied, message: "Permission denied" }', 13),
        ("the table refuses row 30", 0),
    ],
)
def test_the_error_of_the_system_is_found(text: str, number: int) -> None:
    assert find_errno(OSError(text)) == number
