"""Log records as lines, and the report of lines that cannot be written."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from mdstream import log
from mdstream.limits import MOST_LOG_LINES


class Disk(io.StringIO):
    """A file that accepts lines until it is full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError("no room")
        return super().write(text)


def record(message: str, **changes: Any) -> dict[str, Any]:
    return {
        "ts": "2026-01-05T14:30:00.125+00:00",
        "level": "info",
        "stream": "",
        "message": message,
        **changes,
    }


def test_lines_that_could_not_be_written_are_counted_and_reported() -> None:
    disk = Disk()
    write = log.line_writer(as_json=False, out=disk)
    write(record("one"))
    disk.full = True
    write(record("two"))
    write(record("three"))
    disk.full = False
    write(record("four", stream="stocks"))
    assert disk.getvalue().splitlines() == [
        "14:30:00.125 INFO    engine   one",
        "14:30:00.125 WARNING stocks   2 log lines were lost",
        "14:30:00.125 INFO    stocks   four",
    ]


def test_a_line_of_json_has_all_of_a_record() -> None:
    out = io.StringIO()
    log.line_writer(as_json=True, out=out)(record("one"))
    assert json.loads(out.getvalue()) == record("one")


def test_records_of_this_package_are_passed_on_from_their_level(monkeypatch: pytest.MonkeyPatch) -> None:
    root, ours = logging.getLogger(), logging.getLogger("mdstream")
    before = root.level, ours.level
    monkeypatch.setattr(root, "handlers", [])
    passed: list[dict[str, Any]] = []
    try:
        log.set_up("info", passed.append, "stocks")
        for logger in (ours.getChild("feed"), logging.getLogger("other")):
            logger.debug("low")
            logger.info("high")
    finally:
        root.setLevel(before[0])
        ours.setLevel(before[1])
    assert [(r["message"], r["stream"], r["logger"]) for r in passed] == [
        ("high", "stocks", "mdstream.feed")
    ]


@pytest.mark.cases("M11")
def test_lines_of_a_kind_are_limited_and_those_left_out_are_counted() -> None:
    repeats = log.Repeats()
    shown = [
        note
        for second in range(50)
        for i in range(10)
        if (note := repeats.note("a", 1, second)) is not None
    ]
    assert len(shown) == MOST_LOG_LINES
    assert shown[-1] == " (more lines of this kind are left out for 56 s)"
    assert repeats.note("a", 2, 50.0) == "", "another kind"
    assert repeats.note("a", 1, 60.0) == " (450 more lines of this kind were left out)"
    assert repeats.note("a", 1, 60.5) == ""
