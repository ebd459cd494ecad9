from __future__ import annotations

import io

import pytest
from rich.console import Console

from mdstream.telemetry.metrics import STREAM, group_values
from mdstream.views.summary import show
from mdstream.views.table import Field, fit


def render(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    fields = [
        Field("name", ["stocks", "crypto"], justify="left"),
        Field("pid", ["1234567", "89"], 2),
        Field("messages", ["123,456,789", "0"]),
        Field("rows", ["1,234", "5"], 1),
    ]
    console.print(fit(fields, width, console))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_everything_shows_where_there_is_room() -> None:
    text = render(80)
    assert all(word in text for word in ("name", "pid", "messages", "rows", "1234567", "1,234"))


def test_the_most_dispensable_column_goes_first_and_no_number_is_cut() -> None:
    narrow, narrower = render(36), render(27)
    assert "pid" not in narrow
    assert "1,234" in narrow
    assert "rows" not in narrower
    assert "123,456,789" in narrower
    assert "…" not in narrow + narrower


@pytest.mark.parametrize("width", [72, 80, 90, 120, 200])
def test_the_summary_of_a_large_run_fits_every_terminal(width: int) -> None:
    counts = {metric.name: 0 for metric in STREAM}
    counts |= {"symbols_ok": 120, "messages": 12_345_678, "committed": 12_345_678}
    stream = group_values(counts)
    stream |= {"state": "stopped", "reason": None, "symbols_failed": {}, "rejects_file": None}
    stream["fetch"]["t_stream_s"] = 1.234
    report = {
        "run": "20260101T000000-1",
        "duration_s": 3600.0,
        "t_total_s": 1.3,
        "cores": {"count": 16, "busy_mean": 40.0},
        "streams": {"stocks": stream, "options": stream},
    }
    console = Console(file=io.StringIO(), width=width)
    show(report, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("12,345,678") == 4
    assert "…" not in text
