"""The event log: events of a run, written to the telemetry frames and to the log."""

from __future__ import annotations

import logging
import time

from mdstream.telemetry.events import RunEvent, Symbols, compare_symbols
from mdstream.telemetry.schema import EVENTS, SYMBOLS
from mdstream.telemetry.writer import TelemetryWriter

log = logging.getLogger(__name__)


class EventLog:
    """Writes events and changes of symbols as rows of `telemetry.events` and `telemetry.symbols`."""

    def __init__(self, writer: TelemetryWriter) -> None:
        self._writer = writer

    def report(self, stream: str, event: RunEvent) -> None:
        """Record an event, and log it at its severity."""
        log.log(event.severity, "%s: %s", stream, event.text)
        self.record(stream, event)

    def record(self, stream: str, event: RunEvent) -> None:
        """Record an event without logging it: its own process has done so."""
        row = {
            "ts": time.time_ns(),
            "stream": stream,
            "kind": event.kind,
            "severity": event.severity.name.lower(),
            "text": event.text,
            "fields": event.fields,
        }
        self._writer.write(EVENTS, [row])

    def record_symbols(self, stream: str, before: Symbols, now: Symbols) -> None:
        """Record each symbol whose state or reason has changed."""
        ts = time.time_ns()
        changes = compare_symbols(before, now)
        rows = [{"ts": ts, "stream": stream, **change._asdict()} for change in changes]
        self._writer.write(SYMBOLS, rows)
