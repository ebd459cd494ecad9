"""Random kills, freezes and clock steps, seeded: what was received is stored, each message once.

`make chaos` runs it (`SEEDS="1 2 3" ROUND_S=60`). In each round an engine receives three streams, records
them and keeps a journal, while a random process of it is killed or stopped every second or so: a worker, a
feed, a fork server, the recorder, the supervisor, or all at once. A killed engine is started again with the
same journal and store. The journal has the payloads as they were received, and the simulator numbers its
trades. So the decoder of the tests says which rows the store must have.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import polars as pl
import psutil
import pytest

import mdstream
from mdstream.frames.rundir import list_runs
from mdstream.pool import ipc_names
from mdstream.store.journal import read_entries
from mdstream.streams.spec import PayloadKind
from tests import traffic
from tests.e2e.test_clocks import SET_CLOCK
from tests.engine.test_api import write_site
from tests.running import RunningSimulator, settings, simulator, until

SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "1 2 3").split()]
ROUND_S = float(os.environ.get("ROUND_S", "60"))
STREAMS = ("stocks", "crypto", "options")
ROLES = {"feed": 4, "worker": 6, "fork server": 2, "recorder": 2, "supervisor": 1, "everything": 1}
"""What is hit, and how often compared with the others."""


class Victim:
    """An engine that is hit at random, and started again when its supervisor is dead."""

    def __init__(self, values: dict[str, Any], clock: Path, seed: int) -> None:
        self._values = values
        self._clock = clock
        self._random = random.Random(seed)
        self.hits: Counter[str] = Counter()
        self._start()

    def _start(self) -> None:
        self.engine = mdstream.Engine(self._values)
        self.engine.start()
        assert self.engine._host is not None
        self._host = psutil.Process(self.engine._host._process.pid)

    def _processes(self, role: str) -> list[psutil.Process]:
        """Return the processes of the running engine that have `role`."""
        tree = self._host.children(recursive=True)
        if role == "everything":
            return [self._host, *tree]
        if role == "supervisor":
            return [self._host]
        frame = self.engine.attachment.frame("telemetry.processes")
        newest = frame.filter(pl.col("ts") == pl.col("ts").max(), pl.col("role") == role.replace(" ", ""))
        alive = {process.pid: process for process in tree}
        return [alive[pid] for pid in newest["pid"].to_list() if pid in alive]

    def hit(self) -> None:
        """Kill or freeze something, or set the clock."""
        what = self._random.choices(["kill", "freeze", "clock"], [5, 4, 1])[0]
        if what == "clock":
            self._clock.write_text(str(self._random.choice([-7_200, -5, 0, 5, 7_200])))
            self.hits["clock"] += 1
            return
        role = self._random.choices(list(ROLES), list(ROLES.values()))[0]
        found = self._processes(role)
        if not found:
            return
        chosen = found if role == "everything" else [self._random.choice(found)]
        self.hits[f"{what} {role}"] += 1
        for process in chosen:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL if what == "kill" else signal.SIGSTOP)
        if what == "freeze":
            time.sleep(self._random.choice([0.1, 0.5, 2.0, 6.0]))
            for process in chosen:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
        elif role in ("supervisor", "everything"):
            self.engine.stop()
            self._start()

    def stop(self) -> None:
        self.engine.stop()


@contextlib.contextmanager
def hit_engine(
    sim: RunningSimulator, folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Victim]:
    clock = folder / "step"
    for name, value in write_site(folder / "site", SET_CLOCK.replace("FILE", repr(str(clock)))).items():
        monkeypatch.setenv(name, value)
    symbols: dict[str, Any] = {}
    for stream in STREAMS:
        symbols |= traffic.symbols(stream)
    values = settings(sim, folder / "rejects", streams=list(STREAMS), workers=2, **symbols)
    values |= {"record": True, "journal": str(folder / "journal"), "store": {"path": str(folder / "store")}}
    values |= {"hang_timeout_s": 3.0, "frames": {"directory": str(folder / "runs")}}
    (folder / "runs").mkdir()
    victim = Victim(values, clock, seed)
    try:
        yield victim
    finally:
        victim.stop()


def received_trades(journal: Path, stream: str) -> Counter[tuple[str, int]]:
    """Return symbol and number of each trade in the payloads of all runs, read without our decoders."""
    found: Counter[tuple[str, int]] = Counter()
    for run in sorted(journal.iterdir()):
        if not (run / stream).is_dir():
            continue
        for entry in read_entries(run / stream):
            if entry.kind is PayloadKind.MSGPACK:
                messages = msgpack.unpackb(entry.payload, strict_map_key=False)
            elif entry.kind is PayloadKind.JSON:
                messages = json.loads(entry.payload)
            else:
                continue
            found.update((m["S"], key_of(m)) for m in messages if m["T"] == "t")
    return found


def key_of(message: dict[str, Any]) -> int:
    """Return the number of a trade; options have none, but their times differ."""
    if "i" in message:
        return int(message["i"])
    at = message["t"]
    return at.seconds * 1_000_000_000 + at.nanoseconds


def stored_trades(store: Path, stream: str) -> Counter[tuple[str, int]]:
    name = f"{stream}.trades"
    rows = mdstream.scan(name, store, amended=True).collect()
    key = pl.col("id") if "id" in rows.columns else pl.col("ts").dt.epoch("ns")
    return Counter(rows.select("symbol", key.cast(pl.Int64)).rows())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_received_is_stored_once_whatever_is_killed_frozen_or_set(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with simulator("--rate", "300", "--seed", str(seed)) as sim:
        with hit_engine(sim, tmp_path, seed, monkeypatch) as victim:
            end = time.monotonic() + ROUND_S
            while time.monotonic() < end:
                time.sleep(victim._random.uniform(0.3, 2.0))
                victim.hit()
            rows = victim.engine.attachment.rows
            for stream in STREAMS:
                before = until(lambda stream=stream: rows(f"{stream}.trades"))
                until(lambda stream=stream, before=before: rows(f"{stream}.trades") > before)
        until(lambda: not list_runs(tmp_path / "runs"), "every run is recorded, and its folder removed")
    ipc_names.reap()  # what the last kill left, as the next start does
    print(f"seed {seed}: {dict(victim.hits)}")
    for stream in STREAMS:
        received, stored = (
            received_trades(tmp_path / "journal", stream),
            stored_trades(tmp_path / "store", stream),
        )
        print(f"seed {seed}: {stream}: {received.total():,} trades received, {stored.total():,} stored")
        assert received.total() > 1_000
        assert not received - stored, "lost"
        assert not stored - received, "stored twice, or never received"
