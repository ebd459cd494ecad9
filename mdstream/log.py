"""Log records of all processes, written in one place: by the supervisor.

A feed sends its records with its other messages (`system.mailbox`). A supervisor that does not read may
cost records, which are counted, but never time.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any

import orjson

from mdstream.limits import LONGEST_SHOWN, MOST_LOG_LINES
from mdstream.text.masking import clean, mask, shorten

_EXCEPTION_LINES = 10
"""How many of the longest lines an exception may be long."""


class _Handler(logging.Handler):
    """Passes records as plain values to `write`."""

    def __init__(self, write: Callable[[dict[str, Any]], None], stream: str) -> None:
        super().__init__()
        self._write, self._stream = write, stream
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        note = self._repeats.note(record.name, record.lineno, record.created)
        if note is not None:
            line = as_dict(record, self._stream)
            self._write({**line, "message": line["message"] + note})


class Repeats:
    """Limits log lines of one kind, which is the place in the code that logs them.

    A hostile or broken server can cause any number of them.
    """

    WITHIN_S = 60.0

    # Written by `note`: kind → beginning of its period, lines shown, lines left out.
    _kinds: dict[tuple[str, int], tuple[float, int, int]]

    def __init__(self) -> None:
        self._kinds = {}

    def note(self, logger: str, line: int, at: float) -> str | None:
        """Return what to add to a line at time `at` (s); None if the line is left out."""
        begin, shown, left_out = self._kinds.get((logger, line), (at, 0, 0))
        text = ""
        if not 0 <= at - begin < self.WITHIN_S:
            if left_out:
                text = f" ({left_out:,} more lines of this kind were left out)"
            begin, shown, left_out = at, 0, 0
        is_shown = shown < MOST_LOG_LINES
        self._kinds[logger, line] = (begin, shown + is_shown, left_out + (not is_shown))
        if shown == MOST_LOG_LINES - 1:
            text += f" (more lines of this kind are left out for {self.WITHIN_S - (at - begin):.0f} s)"
        return text if is_shown else None


def as_dict(record: logging.LogRecord, stream: str = "") -> dict[str, Any]:
    """Return a log record as plain values."""
    out: dict[str, Any] = {
        "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "stream": stream or getattr(record, "stream", ""),
        "logger": record.name,
        "pid": record.process,
        "message": clean(record.getMessage()),
    }
    if record.exc_info:
        text = mask(logging.Formatter().formatException(record.exc_info))
        out["exception"] = shorten(text, _EXCEPTION_LINES * LONGEST_SHOWN)
    return out


def set_up(level: str, write: Callable[[dict[str, Any]], None], stream: str = "") -> None:
    """Pass this process's records of `level` and above to `write`."""
    root = logging.getLogger()
    root.handlers[:] = [_Handler(write, stream)]
    root.setLevel(logging.WARNING)
    logging.getLogger("mdstream").setLevel(level.upper())
    # websockets logs messages and headers at DEBUG, credentials among them.
    logging.getLogger("mdstream.websocket").setLevel(logging.WARNING)


def text_line(record: dict[str, Any]) -> str:
    """Return a record as one line for people, followed by its exception."""
    clock = record["ts"][11:23]
    source = record["stream"] or "engine"
    line = f"{clock} {record['level'].upper():<7} {source:<8} {record['message']}"
    return line + ("\n" + record["exception"] if "exception" in record else "")


def line_writer(as_json: bool, out: IO[str] | None = None) -> Callable[[dict[str, Any]], None]:
    """Return a function that writes records to `out` (default: standard error), one line each.

    A log that cannot be written, because its disk is full or its reader is gone, stops no run. The number
    of lines lost is reported as soon as a line can be written again.
    """
    lost = 0

    def show(record: dict[str, Any]) -> None:
        line = orjson.dumps(record).decode() if as_json else text_line(record)
        print(line, file=out or sys.stderr, flush=True)

    def write(record: dict[str, Any]) -> None:
        nonlocal lost
        try:
            if lost:
                show({**record, "level": "warning", "message": f"{lost} log lines were lost"})
                lost = 0
            show(record)
        except OSError:
            lost += 1

    return write
