"""The live view of a run of another process: its queries, and the picture drawn from them."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.keyed_frame import KeyedFrameWriter
from mdstream.frames.rundir import RunDirectory, dictionary_path, frame_path
from mdstream.frames.share import Share
from mdstream.handoff.columns import ColumnData
from mdstream.reading.attach import Attachment
from mdstream.streams import STREAMS as STREAMS_BY_NAME
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


def render(
    run: Attachment, width: int, height: int, notes: list[str] | None = None, doing: str = ""
) -> str:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(terminal.draw(run, "simulator", console, notes, doing))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_view_shows_streams_cores_pool_and_events(run: Attachment) -> None:
    text = render(run, 160, 50)
    for part in ("streaming", "1,000", "9,000", "cores 1.8 of 2 busy", "workers 1 of 2 busy", "lost: 9"):
        assert part in text, part
    assert f"mdstream {run.run}" in text
    assert "lost: 3" not in text, "the view shows only the newest events"
    assert "2 warnings, shown at the end: the last" in render(run, 160, 50, ["the first", "the last"])


TRADED = {"AAPL": (230.5, 230.0, 231.0), "MSFT": (510.25, 510.2, 510.3), "PENNY": (0.00012, None, None)}


@pytest.fixture
def priced(run: Attachment) -> Attachment:
    """The run with last prices of some symbols."""
    (path := run.path / "run.json").write_text(
        json.dumps({**json.loads(path.read_text()), "streams": ["stocks", "news"]})
    )
    DictionaryWriter(dictionary_path(run.path, "stocks", "symbols")).add(TRADED)
    channel = STREAMS_BY_NAME["stocks"].latest_channel
    writer = KeyedFrameWriter(frame_path(run.path, "stocks.latest"), channel.columns, Share(64_000_000))
    rows, now = np.arange(len(TRADED)), time.time_ns()
    for place, name in enumerate(("trade_price", "quote_bid_price", "quote_ask_price")):
        values = np.array([prices[place] or 0.0 for prices in TRADED.values()])
        there = np.array([prices[place] is not None for prices in TRADED.values()])
        writer.update(rows, [(channel.at[name], ColumnData(values, there))], None)
    for name in ("trade_ts", "quote_ts"):
        times = np.full(len(TRADED), now - 2 * SECOND)
        writer.update(rows, [(channel.at[name], ColumnData(times))], None)
    writer.update(rows, [(0, ColumnData(rows.astype(np.uint32)))], None)
    return Attachment(run.path)


@pytest.mark.cases("N11")
def test_the_view_shows_the_market(priced: Attachment) -> None:
    text = render(priced, 160, 50)
    assert re.search(r"stocks\s+AAPL\s+230\.50\s+230\.00\s+231\.00\s+43\.4\s+2\.\d", text)
    assert re.search(r"MSFT\s+510\.25\s+510\.20\s+510\.30\s+2\.0", text)
    assert re.search(r"PENNY\s+0\.00012000\s+-\s+-\s+-", text)


@pytest.mark.cases("N11")
def test_the_view_shows_rates_over_time_a_legend_and_how_to_read(priced: Attachment) -> None:
    text = " ".join(render(priced, 80, 24).replace("│", "").split())
    assert "▇" in text or "█" in text
    assert "latency: from receipt to frame" in text
    assert "mdstream tail" in text
    assert "mdstream.attach().frame(" in text


@pytest.mark.cases("N11")
@pytest.mark.parametrize("doing", ["", "compiling the decoders, once: 5 of 26 done; " * 3])
@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (100, 30), (160, 50), (250, 70)])
def test_the_view_fits_the_terminal(priced: Attachment, width: int, height: int, doing: str) -> None:
    lines = render(priced, width, height, doing=doing).splitlines()
    assert any("5 of 26 done" in line for line in lines) is bool(doing)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "last price" in "\n".join(lines)
    assert lines[-1].startswith("╰"), "nothing is cut off"


@pytest.mark.cases("N1")
def test_before_there_is_something_to_show_the_view_says_what_the_engine_does() -> None:
    out = io.StringIO()
    view = terminal.LiveView(Console(file=out, width=80, height=24, force_terminal=True), "simulator")
    with view:
        assert "starting" in out.getvalue()
        view.report("compiling the decoders; 5 of 16 done")
        assert "compiling the decoders; 5 of 16 done ... (0 s)" in out.getvalue()
    assert "\x1b[?1049h" in out.getvalue(), "a screen of its own: resizing leaves nothing behind"
    assert out.getvalue().rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in out.getvalue()


def test_the_live_view_is_a_reader_and_loads_no_engine() -> None:
    code = (
        "import sys, mdstream.views.terminal;"
        "loaded = {m for m in sys.modules if m.startswith(('mdstream.engine', 'mdstream.feed', 'workers'))};"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
