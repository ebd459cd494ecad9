"""A subject of `bench_handoff`: the engine's pipeline with so many workers, without a session."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import traffic
from benchmarks.harness import answer, asked

TURN_S = 0.5
"""What is measured of a case in a turn, at least."""
MESSAGES = 200_000
PAGES = 40
QUIET = 300
USUAL_KB = 1024
"""The engine's own slabs."""
SYMBOLS = 30
MANY_SYMBOLS = 1_000
_SMALL_KB = 64
_STAMP = re.compile(rb"(\xd7\xff.{4}|\xd6\xff)(.{4})", re.DOTALL)
"""A timestamp in msgpack, 30 bits of nanoseconds and 34 of seconds, or 32 of seconds alone."""


# -- the payloads: made once, and read by every subject


class Material:
    """A folder of encoded messages, which the subjects read."""

    # The mutable state: what has been read.

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._read: dict[str, list[bytes]] = {}

    def messages(self, traffic: str, codec: str, symbols: int) -> list[bytes]:
        """Single messages, encoded."""
        return self._kept(f"{traffic}-{codec}-{symbols}", lambda: _messages(traffic, codec, symbols))

    def pages(self) -> list[bytes]:
        """Pages of history, gzip'd."""
        return self._kept("pages", lambda: traffic.pages(PAGES))

    def _kept(self, name: str, make: Callable[[], list[bytes]]) -> list[bytes]:
        path = self._folder / name
        if not path.exists():
            path.write_bytes(pickle.dumps(make()))
        if name not in self._read:
            self._read[name] = pickle.loads(path.read_bytes())
        return self._read[name]


def _messages(traffic: str, codec: str, symbols: int) -> list[bytes]:
    from mdstream.simulator.encode import ENCODINGS
    from mdstream.simulator.markets import MARKETS
    from mdstream.simulator.traffic import generate

    stream, channels = (
        ("crypto", ["orderbooks"]) if traffic == "books" else ("stocks", ["trades", "quotes"])
    )
    names = [f"S{i}" for i in range(symbols)] if symbols == MANY_SYMBOLS else MARKETS[stream].universe
    generated = generate(stream, 1, dict.fromkeys(channels, names))
    # The simulator corrects two trades of a thousand, far more than happens: that is not measured here.
    messages = (message for message in generated if message["T"] not in "cx")
    form = ENCODINGS[codec]
    count = MESSAGES // 8 if traffic == "books" else MESSAGES
    return [form.message(message) for message in itertools.islice(messages, count)]


def later(payloads: Sequence[bytes], codec: str, minutes: int) -> list[bytes]:
    """The same payloads so many minutes later: time goes on, or bars would not end."""
    from mdstream.simulator.encode import rfc3339
    from mdstream.simulator.traffic import START_NS

    start = START_NS // 1_000_000_000
    if codec == "json":
        old, new = (rfc3339((start + 60 * m) * 1_000_000_000)[:17].encode() for m in (0, minutes))
        return [payload.replace(old, new) for payload in payloads]
    changed = {
        (start + s).to_bytes(4, "big"): (start + 60 * minutes + s).to_bytes(4, "big") for s in range(60)
    }
    return [
        _STAMP.sub(lambda found: found[1] + changed.get(found[2], found[2]), payload)
        for payload in payloads
    ]


# -- the pipeline


class Line:
    """The pipeline of one stream in a run of its own, from payloads to frames."""

    def __init__(self, run: Any, stream: str, pool: Any, slab_kb: int) -> None:
        from mdstream.config import HandoffConfig
        from mdstream.feed.commit import Committer
        from mdstream.feed.pipeline import Pipeline
        from mdstream.frames.rundir import state_path
        from mdstream.frames.writer import Limits
        from mdstream.store.rejects import RejectFile
        from mdstream.streams import STREAMS
        from mdstream.telemetry.state import FeedState

        self.state = FeedState.create(state_path(run.path, stream))
        self.committer = Committer(
            run.path,
            STREAMS[stream],
            self.state,
            Limits(64_000_000, 16_000_000),
            RejectFile(run.path / "rejects"),
            pool.make_bars,
        )
        config = HandoffConfig(slab_kb=slab_kb)
        self.pipeline = Pipeline(run.path, stream, config, pool, self.committer, lambda _: None)

    async def take(self, payloads: Sequence[bytes], kind: Any) -> None:
        """Take payloads as fast as they are committed, until all are."""
        offer, put, now = self.pipeline.offer, self.pipeline.put, time.time_ns
        for payload in payloads:
            if not offer(payload, kind, now()):
                await put(payload, kind, now())
        await self.pipeline.drain()

    async def close(self) -> None:
        await self.pipeline.close()
        self.committer.close()


async def serve(workers: int, folder: str) -> None:
    """A subject: this many workers, and whatever is asked of them."""
    from mdstream.frames.rundir import RunDirectory
    from mdstream.pool.pool import WorkerPool

    material = Material(folder)
    pool = WorkerPool(workers, 60.0)
    await pool.start()
    try:
        for wanted in asked():
            with RunDirectory() as run, _bound(pool.pids, wanted.get("cores")):
                match wanted["what"]:
                    case "payloads":
                        found = await _payloads(run, pool, material, wanted)
                    case "pages":
                        found = await _gzipped(run, pool, material)
                    case _:
                        found = await _one_by_one(run, pool, material)
            answer({"workers": workers, **found})
    finally:
        await pool.close()


@contextlib.contextmanager
def _bound(pids: Sequence[int], cores: int | None) -> Iterator[None]:
    """All threads of this process and of `pids` on so many cores; of its own accord they run on all."""
    every = sorted(os.sched_getaffinity(0))
    _bind(pids, every[:cores])
    try:
        yield
    finally:
        _bind(pids, every)


def _bind(pids: Sequence[int], cores: Sequence[int]) -> None:
    for pid in (os.getpid(), *pids):
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores)


class Meter:
    """CPU time of this process, of its loop's thread alone, and of its pool, while it is on."""

    def __init__(self, pids: Sequence[int]) -> None:
        import psutil

        self._workers = [psutil.Process(pid) for pid in pids]
        self._spent: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    def __enter__(self) -> Meter:
        self._at = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        each = zip(self._spent, self._at, self._now(), strict=True)
        self._spent = tuple(spent + now - then for spent, then, now in each)

    def _now(self) -> tuple[float, ...]:
        times = [process.cpu_times() for process in self._workers]
        workers = sum(t.user + t.system for t in times)
        return time.perf_counter(), time.process_time(), time.thread_time(), workers

    @property
    def seconds(self) -> float:
        return self._spent[0]

    def of(self, messages: int) -> dict[str, float]:
        """Rates and costs, `messages` having been done."""
        seconds, feed, loop, workers = self._spent
        return {
            "messages_per_s": messages / seconds,
            "feed_ns": feed / messages * 1e9,
            "loop_ns": loop / messages * 1e9,
            "worker_ns": workers / messages * 1e9,
        }


async def _payloads(run: Any, pool: Any, material: Material, wanted: dict[str, Any]) -> dict[str, float]:
    from mdstream.simulator.encode import ENCODINGS
    from mdstream.streams.spec import PayloadKind

    codec, per = wanted["codec"], wanted["per_payload"]
    single = material.messages(wanted["traffic"], codec, wanted["symbols"])
    form = ENCODINGS[codec]
    payloads = [form.payload(single[i : i + per]) for i in range(0, len(single), per)]
    if per == 1 or wanted["slab_kb"] <= _SMALL_KB:  # slow ones
        payloads = payloads[: len(payloads) // 4]
    kind = PayloadKind.JSON if codec == "json" else PayloadKind.MSGPACK
    line = Line(run, "crypto" if wanted["traffic"] == "books" else "stocks", pool, wanted["slab_kb"])
    await line.take(payloads[: max(1, len(payloads) // 4)], kind)  # layouts learned, memory there
    before, meter, minute = line.state.committed(), Meter(pool.pids), 1
    while meter.seconds < TURN_S:
        coming = later(payloads, codec, minute)
        minute += 1
        with meter:
            await line.take(coming, kind)
    done = line.state.committed()
    messages = done["committed"] - before["committed"]
    assert messages >= len(payloads), "nothing was done"
    assert done["rejected"] == 0, f"{done['rejected']} messages were rejected"
    await line.close()
    batches = done["batches"] - before["batches"]
    return {**meter.of(messages), "messages_per_batch": messages / batches}


async def _gzipped(run: Any, pool: Any, material: Material) -> dict[str, float]:
    from mdstream.handoff.packing import Packing
    from mdstream.streams.spec import PayloadKind

    pages = material.pages()
    line = Line(run, "stocks", pool, USUAL_KB)

    async def fetch(page: bytes) -> None:
        found = await line.pipeline.fetch(page, PayloadKind.TRADES, time.time_ns(), Packing.GZIP)
        assert not found.fault, found.fault

    await asyncio.gather(*(fetch(page) for page in pages[:4]))
    before, meter = line.state.committed()["fetch_committed"], Meter(pool.pids)
    while meter.seconds < TURN_S:
        with meter:
            await asyncio.gather(*(fetch(page) for page in pages))
    messages = line.state.committed()["fetch_committed"] - before
    assert messages % (PAGES * traffic.ROWS_A_PAGE) == 0
    await line.close()
    return meter.of(messages)


async def _one_by_one(run: Any, pool: Any, material: Material) -> dict[str, float]:
    """Single messages with pauses: how long from `offer` to the frame."""
    from mdstream.simulator.encode import ENCODINGS
    from mdstream.streams.spec import PayloadKind

    form = ENCODINGS["json"]
    single = material.messages("quotes", "json", SYMBOLS)[: QUIET + 50]
    line = Line(run, "stocks", pool, USUAL_KB)
    taken = []
    for message in single:
        began = time.perf_counter()
        await line.take([form.payload([message])], PayloadKind.JSON)
        taken.append((time.perf_counter() - began) * 1e6)
        await asyncio.sleep(0.001)
    await line.close()
    taken = sorted(taken[50:])
    return {"p50_us": statistics.median(taken), "p99_us": taken[int(len(taken) * 0.99)]}


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
