"""`mdstream precompile`, with folders of its own for what it compiles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mdstream.errors import Exit
from tests.running import HANGING_S

_COMMAND = [sys.executable, "-m", "mdstream"]


def _start(cache: Path, *flags: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "COLUMNS": "400"}
    environment.pop("NUMBA_CACHE_DIR", None)
    return subprocess.Popen(
        [*_COMMAND, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_nothing_is_compiled_twice() -> None:
    done = subprocess.run(
        [*_COMMAND, "precompile"], capture_output=True, text=True, check=True, timeout=HANGING_S
    )
    assert done.stdout == "the decoders are compiled already\n"


def test_what_an_interrupted_compilation_finished_is_kept(tmp_path: Path) -> None:
    with _start(tmp_path, "precompile") as process:
        deadline = time.monotonic() + HANGING_S
        while not list(tmp_path.rglob("*.nbi")):
            assert time.monotonic() < deadline, "nothing was compiled"
            time.sleep(0.05)
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANGING_S)
        assert (process.returncode, errors) == (Exit.INTERRUPTED, "mdstream: interrupted\n")
    gone, alive = psutil.wait_procs(children, timeout=HANGING_S)
    assert gone
    assert not alive
    with _start(tmp_path, "doctor", "--offline") as process:
        text, _ = process.communicate(timeout=HANGING_S)
    assert "the next run compiles the rest beside its streams → mdstream precompile" in text
    assert "compiled decoders  0 of" not in " ".join(text.split())


def test_a_folder_that_cannot_be_written_is_an_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mdstream").write_text("in the way")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / f"mdstream-{os.getuid()}").write_text("in the way")
    with _start(tmp_path, "precompile") as process:
        _, errors = process.communicate(timeout=HANGING_S)
    assert process.returncode == Exit.STREAM_FAILED
    assert errors.startswith("mdstream: no compiled decoders: they cannot be stored on disk: ")
    assert errors.count("\n") == 1
