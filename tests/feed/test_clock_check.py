"""A clock that is far behind the times of the messages is reported, once, and so is its correction."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from mdstream.feed.clock_check import ClockCheck
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from mdstream.telemetry.events import EventKind, RunEvent, Severity
from tests.piping import rig

TRADE = (
    b'[{"T":"t","S":"AAPL","i":%d,"x":"V","p":100.5,"s":1,"c":["@"],"z":"C","t":"2026-01-05T14:30:00Z"}]'
)
QUOTE = (
    b'[{"T":"q","S":"AAPL","bx":"V","bp":100.5,"bs":1,"ax":"V","ap":101.5,"as":1,"c":["R"],"z":"C",'
    b'"t":"2026-01-05T14:30:00Z"}]'
)
TIME = 1_767_623_400_000_000_000
SECOND = 1_000_000_000


@pytest.mark.cases("M1")
def test_a_slow_clock_is_reported_once_and_so_is_its_correction(tmp_path: Path) -> None:
    events: list[RunEvent] = []

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            check = ClockCheck(STREAMS["stocks"], r.committer.frames, events.append)

            async def look(payload: bytes, behind_s: int) -> None:
                await r.feed([(payload, PayloadKind.JSON, TIME - behind_s * SECOND)])
                await r.pipeline.drain()
                check.look()

            check.look()
            for number in range(4):
                await look(TRADE % number, 120)
            for _ in range(10):
                check.look()  # nothing new says nothing
            await look(TRADE % 5, 0)  # the others were errors of the messages
            await look(QUOTE, 120)
            assert not events
            for number in range(6, 20):
                await look(TRADE % number, 120)
            assert len(events) == 1
            for number in range(20, 25):
                await look(TRADE % number, 59)
            await r.drain()

    uvloop.run(go())
    assert [event.kind for event in events] == [EventKind.CLOCK] * 2
    assert [event.severity for event in events] == [Severity.WARNING, Severity.INFO]
    assert events[0].text.startswith("the clock of this machine is 120 s behind the times of the messages")
