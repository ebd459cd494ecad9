"""Real processes for tests: the simulator and the engine as their users start them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import mdstream
from mdstream.reading.attach import Attachment
from tests import warm

HANGING_S = 120.0
"""After this long, what a test waits for has not come late but never will, on however slow a machine.

Nothing else about a test is a matter of time: it waits for what must be, not for as long as that usually takes.
"""

SHARED = Path(__file__).resolve().parents[2] / "shared"
QUIET_FETCH = {"interval_s": 0, "budget_per_minute": 100_000}


class RunningSimulator:
    """A simulator in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], stream_url: str, data_url: str) -> None:
        self.process, self.stream_url, self.data_url = process, stream_url, data_url

    @property
    def port(self) -> int:
        return int(self.data_url.rpartition(":")[2])

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.data_url + "/simulator/stats", timeout=HANGING_S) as answer:
            return json.load(answer)

    def sent(self, stream: str) -> int:
        return self.stats()["streams"][stream]["messages"]

    def faults(self, *faults: str) -> None:
        request = urllib.request.Request(
            self.data_url + "/simulator/faults", json.dumps(faults).encode(), method="POST"
        )
        urllib.request.urlopen(request, timeout=HANGING_S).close()


def simulator(
    *flags: str, env: dict[str, str] | None = None
) -> contextlib.AbstractContextManager[RunningSimulator]:
    """`mdstream simulate` with `flags`, on a free port; at 50 messages/s where they do not set the rate."""
    rate = () if "--rate" in flags else ("--rate", "50")
    return server("simulate", "--rate-limit", "1000000", *rate, *flags, env=env)


@contextlib.contextmanager
def server(command: str, *flags: str, env: dict[str, str] | None = None) -> Iterator[RunningSimulator]:
    """`mdstream simulate` or `mdstream replay`, on a free port."""
    process = warm.start(
        "mdstream",
        command,
        "--port",
        "0",
        *flags,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"on (wss?://\S+) and (https?://\S+) ", line)
        assert found, f"{command} said {line!r}"
        yield RunningSimulator(process, found[1], found[2])
    finally:
        process.terminate()
        process.wait(HANGING_S)
        if process.stdout is not None:
            process.stdout.close()


def settings(sim: RunningSimulator | None, rejects: Path, **more: Any) -> dict[str, Any]:
    """Settings of an engine on `sim`."""
    base: dict[str, Any] = {
        "credentials": {"key_id": "test", "secret_key": "test"},
        "rejects": str(rejects),
        "fetch": QUIET_FETCH,
        "log": {"level": "info"},
    }
    if sim is not None:
        base |= {"stream_url": sim.stream_url, "data_url": sim.data_url}
    return base | more


@contextlib.contextmanager
def engine(values: dict[str, Any]) -> Iterator[mdstream.Engine]:
    running = mdstream.Engine(values)
    with warm.hosts():
        running.start()
    try:
        yield running
    finally:
        running.stop()


def until(condition: Callable[[], Any], what: str | Callable[[], str] = "") -> Any:
    """Wait for something to become true; returns it."""
    started = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - started
        if waited > HANGING_S:
            why = what() if callable(what) else what or condition
            raise AssertionError(f"not within {HANGING_S:g} s: {why}")
        # Other tests run meanwhile, and looking costs them time.
        time.sleep(min(0.1, 0.01 + waited / 20))
    return value


def stream_rows(run: Attachment, stream: str, channels: tuple[str, ...]) -> int:
    return sum(run.rows(f"{stream}.{channel}") for channel in channels)


def as_rows(frame: Any) -> list[dict[str, Any]]:
    """A frame's rows as plain values: times as int nanoseconds, codes as text."""
    import polars as pl

    times = [c for c, t in frame.schema.items() if t == pl.Datetime("ns", "UTC")]
    coded = [c for c, t in frame.schema.items() if isinstance(t, pl.Categorical)]
    plain = frame.with_columns(
        *(pl.col(c).to_physical() for c in times), *(pl.col(c).cast(pl.String) for c in coded)
    )
    return plain.drop("recv_ts", strict=False).to_dicts()


@contextlib.contextmanager
def tmpfs(folder: Path, megabytes: int, inodes: int = 0) -> Iterator[Path]:
    """A file system that is as easily full as a shared memory; 0 inodes: as many as may be."""
    folder.mkdir()
    options = f"size={megabytes}m" + (f",nr_inodes={inodes}" if inodes else "")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, file: BinaryIO) -> None:
    """Leave no room on the file system of `folder`: let `file`, which is unbuffered, take it all."""
    stat = os.statvfs(folder)
    with contextlib.suppress(OSError):
        file.write(bytes(max(4096, stat.f_bavail * stat.f_frsize)))
