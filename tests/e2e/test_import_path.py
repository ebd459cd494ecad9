"""Modules in the user's current folder, and beside the user's script, break no process that we start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mdstream
from mdstream.pool import worker_code
from mdstream.system import children
from tests.running import RunningSimulator, simulator

ENV = {name: text for name, text in os.environ.items() if not name.startswith("APCA_")}
ENV["MDSTREAM_FETCH__TIMEOUT_S"] = "60"
LAUNCHER = "import sys\nfrom mdstream.cli import main\nsys.exit(main())\n"
"""What an installed `mdstream` command runs: Python puts the command's folder first."""


pytestmark = pytest.mark.cases("N5")


@pytest.fixture(scope="module")
def sim() -> Iterator[RunningSimulator]:
    with simulator("--rate", "100") as running:
        yield running


def spoil(folder: Path, *names: str) -> Path:
    """Make modules in `folder` that raise when they are imported."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise SystemExit('{name} of the current folder was imported')\n")
    return folder


@pytest.fixture
def current(tmp_path: Path) -> Path:
    """A current folder with modules that shadow Python's and ours."""
    return spoil(tmp_path / "current", "queue.py", "select.py", "workers.py", "mdstream/__init__.py")


def python(script: Path, *arguments: str, cwd: Path) -> str:
    """Run a script; what it wrote to standard output."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=cwd,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "was imported" not in done.stderr
    return done.stdout


def command(tmp_path: Path, *arguments: str, cwd: Path) -> str:
    launcher = tmp_path / "bin" / "mdstream-launcher"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER)
    return python(launcher, *arguments, cwd=cwd)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_and_its_recorder(tmp_path: Path, current: Path, workers: str) -> None:
    store = tmp_path / "store"
    arguments = ["run", "--duration", "6", "--streams", "stocks,crypto", "--workers", workers]
    shown = command(tmp_path, *arguments, "--record", "--store", str(store), cwd=current)
    assert "run 2" in shown
    assert mdstream.scan("stocks.trades", store).collect().height > 0


def test_a_backfill(tmp_path: Path, current: Path, sim: RunningSimulator) -> None:
    store, hour = tmp_path / "store", ("--start", "2026-01-05", "--end", "2026-01-05T01:00:00Z")
    arguments = ["backfill", "stocks.trades", "--symbols", "AAPL", *hour, "--workers", "2"]
    command(tmp_path, *arguments, "--data-url", sim.data_url, "--store", str(store), "--json", cwd=current)
    assert mdstream.scan("stocks.trades", store).collect().height == 3600


def test_an_engine_that_a_script_starts(tmp_path: Path, current: Path, sim: RunningSimulator) -> None:
    script = spoil(tmp_path / "project", "workers.py", "uvloop.py", "picows.py", "isal.py") / "script.py"
    values = {
        "stream_url": sim.stream_url,
        "data_url": sim.data_url,
        "streams": ["stocks"],
        "workers": 2,
        "rejects": str(tmp_path),
    }
    script.write_text(
        "import mdstream, time\n"
        f"with mdstream.Engine({values!r}) as engine:\n"
        "    while not engine.attachment.rows('stocks.trades'):\n"
        "        time.sleep(0.1)\n"
        "print('rows came')\n"
    )
    assert "rows came" in python(script, cwd=current)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_backfill_of_a_script(tmp_path: Path, current: Path, sim: RunningSimulator, workers: int) -> None:
    script = spoil(tmp_path / "project", "workers.py", "isal.py") / "script.py"
    settings = {"data_url": sim.data_url, "backfill": {"workers": workers}}
    script.write_text(
        "import mdstream\n"
        "done = mdstream.backfill('stocks.trades', ['AAPL'], '2026-01-05', '2026-01-05T01:00:00Z',\n"
        f"    store={str(tmp_path / 'store')!r}, settings={settings!r})\n"
        "print(done.stored, done.failed)\n"
    )
    assert python(script, cwd=current) == "3600 {}\n"


def test_the_process_that_compiles_kernels(current: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_code, "are_kernels_compiled", lambda: False)
    monkeypatch.chdir(current)
    compiling = worker_code.compile_kernels()
    assert compiling is not None
    _, errors = compiling.communicate(timeout=150)
    assert compiling.returncode == 0, errors


def test_the_environment_and_the_path_are_as_before_once_a_process_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    path, main = sys.path, sys.modules["__main__"]
    with children.protect_start(), children.without_script():
        assert os.environ["PYTHONSAFEPATH"] == "1"
        assert sys.modules["__main__"] is not main
    assert "PYTHONSAFEPATH" not in os.environ
    assert sys.path is path
    assert sys.modules["__main__"] is main


def test_a_package_that_is_not_installed_is_found_behind_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(Path(mdstream.__file__).parent.parent)
    monkeypatch.setattr(sys, "path", [root, "/usr/lib/python"])
    monkeypatch.setattr("multiprocessing.process.ORIGINAL_DIR", root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    with children.protect_start(), children.without_script():
        assert sys.path == ["/usr/lib/python", root]
        assert os.environ["PYTHONPATH"] == f"/mine{os.pathsep}{root}"
    assert os.environ["PYTHONPATH"] == "/mine"


@pytest.mark.cases("N6")
def test_all_processes_have_the_same_package_as_the_one_that_starts_them(tmp_path: Path) -> None:
    """As with `python -m mdstream` in a clone, beside an installed version: two copies, two caches."""
    spoil(tmp_path / "installed", "mdstream/__init__.py", "workers/__init__.py")
    show = "import mdstream, workers; print(mdstream.__file__, workers.__file__)"
    code = (
        "import multiprocessing, subprocess, sys\n"
        "import mdstream\n"
        "from mdstream.system import children\n"
        "with children.protect_start(), children.without_script():\n"
        f"    subprocess.run(children.python('-c', {show!r}), check=True)\n"
        "    process = multiprocessing.get_context('spawn').Process(target=children.ignore_terminal)\n"
        "    process.start()\n"
        "process.join()\n"
        "assert process.exitcode == 0\n"
    )
    root = Path(mdstream.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=ENV | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(root / name / "__init__.py") for name in ("mdstream", "workers")]


def test_every_start_of_a_process_goes_through_one_module() -> None:
    package = Path(mdstream.__file__).parent
    files = [*package.rglob("*.py"), *package.with_name("workers").rglob("*.py")]
    for path in files:
        text = path.read_text()
        if path.name != "children.py":
            assert "sys.executable, " not in text.replace("sys.executable, children.python", ""), path
        if any(word in text for word in ("subprocess.Popen(", "ProcessPoolExecutor(", "process.start()")):
            assert "children.protect_start()" in text or "children.import_safely()" in text, path
