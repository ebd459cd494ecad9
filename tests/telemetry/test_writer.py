from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mdstream.errors import NoSpaceError
from mdstream.frames.chunk import Chunk
from mdstream.frames.rundir import RunDirectory
from mdstream.reading.attach import attach
from mdstream.telemetry.schema import CORES, EVENTS, SYMBOLS
from mdstream.telemetry.writer import TelemetryWriter


@pytest.fixture
def run() -> Iterator[RunDirectory]:
    with RunDirectory() as run:
        run.describe()
        yield run


def cores(second: int) -> list[dict[str, Any]]:
    busy = {"busy_percent": 50.0, "user_percent": 40.0, "system_percent": 10.0}
    return [{"ts": second, "core": core, **busy} for core in range(2)]


def test_measurements_that_find_no_room_are_counted_and_end_nothing(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = TelemetryWriter(run.path)
    with monkeypatch.context() as full, caplog.at_level(logging.WARNING):

        def refuse(path: Any, *_: Any) -> None:
            raise NoSpaceError(str(path), 1, 0)

        full.setattr(Chunk, "create", staticmethod(refuse))
        writer.write(CORES, cores(1))
        writer.write(CORES, cores(2))
    assert writer.lost == 4
    assert len(caplog.records) == 1
    writer.write(CORES, cores(3))
    assert attach(run.run).frame("telemetry.cores")["ts"].to_physical().to_list() == [3, 3]


def test_texts_json_and_symbols_come_out_as_they_went_in(run: RunDirectory) -> None:
    writer = TelemetryWriter(run.path)
    event = {"ts": 1, "stream": "stocks", "kind": "lost", "severity": "warning"}
    writer.write(
        EVENTS,
        [
            {**event, "text": "connection lost: naïve €", "fields": {"reason": "tls", "pause_s": 0.5}},
            {**event, "text": "", "fields": {}},
        ],
    )
    symbol = {"ts": 1, "stream": "crypto"}
    writer.write(
        SYMBOLS,
        [
            {**symbol, "symbol": "BTC/USD", "state": "ok", "reason": None},
            {**symbol, "symbol": "Ä", "state": "failed", "reason": "unknown"},
            {**symbol, "symbol": "BTC/USD", "state": "failed", "reason": ""},
        ],
    )
    attached = attach(run.run)
    events = attached.frame("telemetry.events")
    assert events["text"].to_list() == ["connection lost: naïve €", ""]
    assert events["fields"].to_list() == ['{"reason":"tls","pause_s":0.5}', "{}"]
    assert events["kind"].cast(str).to_list() == ["lost"] * 2
    symbols = attached.frame("telemetry.symbols")
    assert symbols["symbol"].cast(str).to_list() == ["BTC/USD", "Ä", "BTC/USD"]
    assert symbols["reason"].to_list() == [None, "unknown", ""]
    assert attached.frame("telemetry.symbols", symbols="Ä").height == 1
    writer.close()
