"""The package as users install it: a wheel in its own environment, outside this repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mdstream._version import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[1]
PACKAGES = ("mdstream", "workers")
SUPPORTED = ("3.11", "3.12", "3.13")


def find_interpreters() -> list[str]:
    """Return the installed Pythons that the package supports, one per minor version."""
    found = {}
    for version in SUPPORTED:
        places = [
            shutil.which(f"python{version}"),
            *sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))),
            sys.executable if sys.version_info[:2] == tuple(map(int, version.split("."))) else None,
        ]
        for place in filter(None, places):
            show = "import sys; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([place, "-c", show], capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:  # a shim of pyenv may exist but not work
                found[version] = place
                break
    return list(found.values())


def run(*command: str | Path, cwd: Path, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without settings and without this repository on the import path."""
    ours = ("PYTHON", "MDSTREAM_", "APCA_", "NUMBA_", "_MDSTREAM_KERNELS")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment | {"XDG_CACHE_HOME": str(cache or cwd)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a folder with only its own files."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", "dist", ".", cwd=source)
    [built] = (source / "dist").iterdir()
    return built


def test_the_wheel_has_the_packages_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name == f"mdstream_engine-{__version__}-py3-none-any.whl"
    files = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "mdstream/py.typed" in files
    metadata = {name for name in names if name.startswith(f"mdstream_engine-{__version__}.dist-info/")}
    assert names - metadata == files


@pytest.mark.parametrize("python", find_interpreters(), ids=lambda path: Path(path).parts[-3])
def test_it_installs_and_runs_outside_the_repository_and_compiles_once(
    wheel: Path, python: str, tmp_path: Path
) -> None:
    cache, folder = tmp_path / "cache", tmp_path / "elsewhere"
    folder.mkdir()
    run(python, "-m", "venv", "environment", cwd=tmp_path)
    programs = tmp_path / "environment" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", str(wheel), cwd=tmp_path)
    run(programs / "python", "-m", "pip", "check", cwd=tmp_path)
    mdstream = (programs / "mdstream",)
    assert __version__ in run(*mdstream, "--version", cwd=folder).stdout

    first = run(*mdstream, "run", "--duration", "3", cwd=folder, cache=cache)
    assert "compiling" in first.stderr
    assert re.search(r"stocks\s+stopped", first.stdout)
    second = run(*mdstream, "run", "--duration", "3", cwd=folder, cache=cache)
    assert "compiling" not in second.stderr
    # Also in a clone, whose files are not the installed ones.
    third = run(*mdstream, "run", "--duration", "3", cwd=wheel.parents[1], cache=cache)
    assert "compiling" not in third.stderr
    assert len(list((cache / "mdstream").glob("kernels-*"))) == 1
