"""What `mdstream run` prints above the live view, and where it cannot run."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from mdstream.cli.run import warning_writer
from mdstream.views.terminal import LiveView
from tests.docs.documents import ROOT
from tests.running import HANGING_S


def test_what_needs_attention_is_noted_beside_the_live_view_and_printed_after_it() -> None:
    out = io.StringIO()
    view = LiveView(Console(file=out, width=100, force_terminal=False), "a simulator")
    write = warning_writer(view.note)
    record = {"ts": "2026-01-05T10:00:00.000", "stream": "stocks"}
    write({**record, "level": "info", "message": "a simulator somewhere"})
    write({**record, "level": "warning", "message": "connection [lost]"})
    assert not out.getvalue()
    with view:
        pass
    assert out.getvalue().split()[-5:] == ["10:00:00.000", "WARNING", "stocks", "connection", "[lost]"]


def test_a_current_folder_that_was_removed_is_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    done = subprocess.run(
        ["sh", "-c", f"rmdir {folder}; exec {sys.executable} -m mdstream settings"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANGING_S,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr == "mdstream: the current folder does not exist any more: change to another one\n"
