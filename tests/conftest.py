"""What all tests share: nothing may be left behind, neither in shared memory nor as a process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mdstream.frames.rundir import default_root
from mdstream.pool.pool import compile_kernels
from tests.running import until

# Runs of the tests live apart, so that they disturb no engine that runs on this machine.
_root = default_root() / f"mdstream-tests-{os.getpid()}"


def pytest_configure() -> None:
    _root.mkdir()
    os.environ["MDSTREAM_FRAMES__DIRECTORY"] = str(_root)
    # Else the first tests would wait for it, each with its own patience.
    if (compiling := compile_kernels()) is not None:
        _, told = compiling.communicate()
        if compiling.returncode:
            raise pytest.UsageError(f"the decoders could not be compiled: {told}")


def pytest_unconfigure() -> None:
    shutil.rmtree(_root, ignore_errors=True)


def _shared() -> set[Path]:
    return set(_root.iterdir())


def _descendants() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True) if _is_ours(p)}


def _is_ours(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
        return "resource_tracker" not in command and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a run directory or a process."""
    shared, processes = _shared(), _descendants()
    yield
    if request.node.get_closest_marker("leaves_a_mess"):
        return
    until(lambda: _descendants() <= processes, 10, "processes of the test to end")
    assert _shared() <= shared
