"""Supervision of the recorder's process."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdstream.config import StoreConfig
from mdstream.recording import process
from mdstream.recording.process import RecorderProcess


def note_deaths(path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int) -> list[tuple[str, int]]:
    """Return the notes about a recorder that dies at every start."""
    noted: list[tuple[str, int]] = []

    def start(run: Path, store: StoreConfig) -> subprocess.Popen[bytes]:
        died = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        died.wait()
        return died

    monkeypatch.setattr(process, "start", start)
    recorder = RecorderProcess(
        path, StoreConfig(str(path)), lambda text, level: noted.append((text, level))
    )
    real = time.monotonic
    late = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + late)
    while len(noted) < deaths:
        recorder.check()
        late += 31.0  # longer than any pause
    return noted


def read_pauses(noted: list[tuple[str, int]]) -> list[float]:
    return [
        float(re.fullmatch(r"recorder died .*; restarting it in ([\d.]+) s", text)[1]) for text, _ in noted
    ]  # type: ignore[index]


def test_a_recorder_that_keeps_dying_is_restarted_after_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = note_deaths(tmp_path, monkeypatch, 8)
    assert {level for _, level in noted} == {logging.WARNING}
    assert all(text.startswith("recorder died (exit code 3)") for text, _ in noted)
    assert read_pauses(noted)[0] <= 0.5
    assert read_pauses(noted)[-1] >= 15


def test_a_recorder_that_ran_long_is_restarted_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "HEALTHY_S", 10.0)
    assert max(read_pauses(note_deaths(tmp_path, monkeypatch, 8))) <= 0.5
