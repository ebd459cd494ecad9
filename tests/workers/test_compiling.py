"""Where the kernels' machine code is kept, on machines of all sorts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.kernels import compiling

SHOW = "from workers.kernels import compiling; print(compiling.CACHE)"


def cache_with(**environment: str) -> Path:
    """The folder that a new process chooses."""
    clean = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env=clean | environment, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    return Path(done.stdout.strip())


def test_the_folder_is_in_the_users_cache_or_where_it_is_told(tmp_path: Path) -> None:
    assert cache_with(HOME=str(tmp_path)).parent == tmp_path / ".cache" / "mdstream"
    for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        assert cache_with(**{name: str(tmp_path / name)}).parent == tmp_path / name / "mdstream"


def test_without_a_home_that_can_be_written_it_is_with_the_temporary_files(tmp_path: Path) -> None:
    cache = cache_with(HOME="/proc/nowhere", TMPDIR=str(tmp_path))
    assert cache.parent == tmp_path / f"mdstream-{os.getuid()}"


def test_what_nobody_used_for_long_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("kernels-mine", "kernels-old", "kernels-broken", "kernels-young", "other")
    for name in names:
        (tmp_path / name).mkdir()
        if name != "kernels-broken":
            (tmp_path / name / "complete").touch()
    for path in (*(tmp_path / n / "complete" for n in ("kernels-mine", "kernels-old", "other")),
                 tmp_path / "kernels-broken"):  # fmt: skip
        os.utime(path, (0, 0))
    monkeypatch.setattr(compiling, "CACHE", tmp_path / "kernels-mine")
    compiling.drop_unused()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kernels-mine", "kernels-young", "other"]


def test_a_folder_that_others_may_write_is_not_taken(tmp_path: Path) -> None:
    open_to_all = tmp_path / "mdstream"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    cache = cache_with(XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(tmp_path))
    assert cache.parent == tmp_path / f"mdstream-{os.getuid()}"
    cache.parent.chmod(0o777)
    with pytest.raises(subprocess.CalledProcessError):
        cache_with(XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(tmp_path))
