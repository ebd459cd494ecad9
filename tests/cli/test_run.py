"""The lines that `mdstream run` prints above the live view."""

from __future__ import annotations

import io

from rich.console import Console

from mdstream.cli.run import warning_writer


def test_above_the_live_view_is_what_needs_attention() -> None:
    out = io.StringIO()
    write = warning_writer(Console(file=out, width=100))
    record = {"ts": "2026-01-05T10:00:00.000", "stream": "stocks"}
    write({**record, "level": "info", "message": "a simulator somewhere"})
    write({**record, "level": "warning", "message": "connection [lost]"})
    assert out.getvalue().split() == ["10:00:00.000", "WARNING", "stocks", "connection", "[lost]"]
