"""Compiled kernels belong to the text of their sources: not to its place, and not to the times of files."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import HANGING_S
from workers.kernels import kept

ROOT = Path(__file__).parents[2]
SHOW = "from workers.kernels import kept; print(kept.CACHE)"
WARM = "from workers.warm import warm; warm(); " + SHOW
NEWEST = (
    "import numpy as np; from workers.kernels.newest import newest; words = np.zeros((4, 4), np.int64); "
    "newest(np.zeros(1, np.uint32), *words); " + SHOW
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Another installation of the same version, whose files have other times."""
    folder = tmp_path / "elsewhere"
    for package in ("mdstream", "workers"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in folder.rglob("*.py"):
        os.utime(path, (1e9, 1e9))
    return folder


def run_in(folder: Path, code: str, **environment: str) -> Path:
    """Run `code` with the packages in `folder`; return the folder of machine code that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"import workers; assert {str(folder)!r} in workers.__file__; {code}"],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | environment,
        capture_output=True,
        text=True,
        timeout=HANGING_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def list_code(folder: Path) -> dict[str, int]:
    """Return the files with machine code, with the times at which they were written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*.nb?")}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_another_installation_of_the_same_version_compiles_nothing(copy: Path) -> None:
    assert kept.CACHE is not None
    before = list_code(kept.CACHE)
    assert len(before) > 20
    assert run_in(copy, WARM) == kept.CACHE
    assert list_code(kept.CACHE) == before
    assert kept.is_complete()


def test_an_edited_kernel_is_compiled_anew(copy: Path, tmp_path: Path) -> None:
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first = run_in(copy, NEWEST, **cache)
    code = list_code(first)
    assert len(code) == 2
    run_in(copy, NEWEST, **cache)
    assert list_code(first) == code
    edit(copy / "workers" / "kernels" / "newest.py", "count += 1", "count += 2")
    second = run_in(copy, NEWEST, **cache)
    assert second != first
    assert len(list_code(second)) == 2
    assert list_code(first) == code


def test_a_constant_that_kernels_import_is_a_part_of_their_text(copy: Path) -> None:
    edit(copy / "mdstream" / "streams" / "spec.py", "MOST_AHEAD_NS =", "MOST_AHEAD_NS = 1 +")
    assert run_in(copy, SHOW) != kept.CACHE


def test_what_kernels_import_is_defined_where_they_import_it_from() -> None:
    """Otherwise, the digest of that file would not cover it."""
    sources = kept.find_sources()
    for path in (ROOT / "workers" / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mdstream."):
                assert node.module is not None
                here = ast.parse(sources[node.module])
                defined = {n.name for n in here.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
                targets = [t for n in here.body if isinstance(n, ast.Assign) for t in n.targets]
                targets += [n.target for n in here.body if isinstance(n, ast.AnnAssign)]
                defined |= {t.id for t in ast.walk(ast.List(targets)) if isinstance(t, ast.Name)}
                assert {alias.name for alias in node.names} <= defined, path
