"""The live view of a run of another process: its queries, and the picture drawn from them."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from mdstream.frames.rundir import RunDirectory
from mdstream.reading.attach import Attachment
from mdstream.streams.spec import Channel, Kind
from mdstream.telemetry.schema import CORES, EVENTS, STREAMS
from mdstream.telemetry.writer import TelemetryWriter
from mdstream.views import queries, terminal

SECOND = 1_000_000_000


def make_row(channel: Channel, **values: Any) -> dict[str, Any]:
    """Return a row of a channel with `values`; other columns are null or empty."""
    empty: dict[Kind, Any] = {Kind.CODE: "", Kind.TEXT: "", Kind.JSON: {}}
    blank = {c.name: None if c.nullable else empty.get(c.kind, 0) for c in channel.columns}
    return {**blank, **values}


@pytest.fixture
def run() -> Iterator[Attachment]:
    with RunDirectory() as directory:
        directory.describe(started_monotonic=time.monotonic() - 100)
        writer = TelemetryWriter(directory.path)
        for second in range(10):
            ts = second * SECOND
            streams = [
                make_row(
                    STREAMS, ts=ts, stream="stocks", state="streaming", messages=1000 * second, symbols_ok=3
                ),
                make_row(
                    STREAMS, ts=ts, stream="news", state="restarting", messages=0, pool_busy=1, pool_size=2
                ),
            ]
            writer.write(STREAMS, streams)
            writer.write(
                CORES, [make_row(CORES, ts=ts, core=n, busy_percent=10.0 * second) for n in range(2)]
            )
            event = {"kind": "lost", "severity": "warning", "text": f"connection lost: {second}"}
            writer.write(EVENTS, [make_row(EVENTS, ts=ts, stream="stocks", **event)])
        yield Attachment(directory.path)
        writer.close()


def test_rates_are_those_of_the_last_seconds(run: Attachment) -> None:
    stocks, news = queries.streams_now(run)
    assert (stocks["stream"], stocks["state"], stocks["messages"]) == ("stocks", "streaming", 9000)
    assert stocks["messages_per_s"] == 1000
    assert (news["state"], news["messages_per_s"]) == ("restarting", 0)


def test_cores_events_and_time_are_those_of_now(run: Attachment) -> None:
    assert queries.cores_now(run) == [90.0, 90.0]
    assert [event["text"] for event in queries.recent_events(run, 2)] == [
        "connection lost: 8",
        "connection lost: 9",
    ]
    assert queries.recent_events(run, 1)[0]["severity"] == "warning"
    assert 100 <= queries.elapsed_s(run) < 200
    assert queries.messages_per_batch(run) is None


def test_the_view_shows_streams_cores_pool_and_events(run: Attachment) -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(terminal.draw(run, "simulator", console))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in ("streaming", "1,000", "9,000", "cores 1.8 of 2 busy", "workers 1 of 2 busy", "lost: 9"):
        assert part in text, part
    assert f"mdstream {run.run}" in text
    assert "lost: 3" not in text, "the view shows only the newest events"


def test_the_live_view_is_a_reader_and_loads_no_engine() -> None:
    code = (
        "import sys, mdstream.views.terminal;"
        "loaded = {m for m in sys.modules if m.startswith(('mdstream.engine', 'mdstream.feed', 'workers'))};"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
