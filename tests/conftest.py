"""What all tests share: their places, compiled kernels, and that nothing may be left behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from mdstream.pool.worker_code import are_kernels_compiled, compile_kernels
from tests import warm
from tests.forking import end_fork_server
from tests.fuzzing import examples
from tests.leftovers import Place, Session
from tests.running import until

# How long an example takes says how busy the machine is.
settings.register_profile(
    "mdstream", deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mdstream")

_SESSION = pytest.StashKey[Session]()
_PLACE = pytest.StashKey[Place]()
_LEFT = pytest.StashKey[list[str]]()


_LONG = ("e2e", "engine", "docs", "history", "recording", "store", "simulator", "pool", "feed", "frames")
"""Folders whose tests start processes or take long, those with the longest first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep tests that share a costly fixture on one worker, and begin with the long tests.

    The order is for pytest-xdist, whose workers would else end with long tests, one after another.
    """
    for item in items:
        info = getattr(item, "_fixtureinfo", None)
        for definitions in info.name2fixturedefs.values() if info is not None else ():
            if definitions[-1].scope in ("module", "package"):
                group = item.path if definitions[-1].scope == "module" else item.path.parent
                item.add_marker(pytest.mark.xdist_group(str(group.relative_to(config.rootpath))))
                break
    root = config.rootpath / "tests"
    folders = {folder: number for number, folder in enumerate(_LONG)}
    items.sort(key=lambda item: folders.get(item.path.relative_to(root).parts[0], len(_LONG)))


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)  # there is one where pytest-xdist has several
    if worker is not None:
        config.stash[_PLACE] = Place.make(worker["workerid"])
        return
    config.stash[_SESSION] = Session()
    config.stash[_PLACE] = Place.make("main")
    # Once, before any test: otherwise all workers would compile at the same time.
    if (compiling := compile_kernels()) is not None:
        _, said = compiling.communicate()
        if compiling.returncode:
            raise pytest.UsageError(f"the decoders could not be compiled: {said}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """All tests are over, and so are the workers: fail if anything is left."""
    end_fork_server()
    warm.end()
    stash = session.config.stash
    if _SESSION not in stash:
        return
    left = stash[_SESSION].left()
    if not are_kernels_compiled():
        left.append("a kernel that a test has compiled, for a type that `workers.warm` does not know")
    if left:
        stash[_LEFT] = left
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for each in config.stash.get(_LEFT, []):
        terminalreporter.write_line(f"LEFT BEHIND {each}", red=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (ours := config.stash.get(_SESSION, None)) is not None:
        ours.close()


@pytest.fixture(autouse=True)
def restored_log() -> Iterator[None]:
    """Undo what a command does to the log when it runs in the process of the tests."""
    log = logging.getLogger("mdstream")
    level, propagate, handlers = log.level, log.propagate, log.handlers[:]
    yield
    log.setLevel(level)
    log.propagate, log.handlers[:] = propagate, handlers


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a run, a temporary file or a process."""
    place = request.config.stash[_PLACE]
    before = place.left()
    yield
    until(lambda: place.left() <= before, lambda: f"it is still there: {sorted(place.left() - before)}")
