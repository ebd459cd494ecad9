"""A subject of `bench_handoff`: the engine's pipeline with some workers, without a session."""

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
from benchmarks.subjects import answer, read_requests

TURN_S = 0.5
"""Least duration of a case in a turn."""
MESSAGES = 200_000
PAGES = 40
QUIET = 300
USUAL_KB = 1024
"""The engine's default slab size."""
SYMBOLS = 30
MANY_SYMBOLS = 1_000
_SMALL_KB = 64
_STAMP = re.compile(rb"(\xd7\xff.{4}|\xd6\xff)(.{4})", re.DOTALL)
"""A timestamp in msgpack, 30 bits of nanoseconds and 34 of seconds, or 32 of seconds alone."""


# -- the payloads: generated once, read by every subject


class Material:
    """A folder of encoded messages for all subjects."""

    _read: dict[str, list[bytes]]
    """The messages in memory."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._read = {}

    def messages(self, traffic: str, codec: str, symbols: int) -> list[bytes]:
        """Return single encoded messages."""
        return self._load_or_make(
            f"{traffic}-{codec}-{symbols}", lambda: _make_messages(traffic, codec, symbols)
        )

    def pages(self) -> list[bytes]:
        """Return gzip'd pages of history."""
        return self._load_or_make("pages", lambda: traffic.pages(PAGES))

    def _load_or_make(self, name: str, make: Callable[[], list[bytes]]) -> list[bytes]:
        path = self._folder / name
        if not path.exists():
            path.write_bytes(pickle.dumps(make()))
        if name not in self._read:
            self._read[name] = pickle.loads(path.read_bytes())
        return self._read[name]


def _make_messages(traffic: str, codec: str, symbols: int) -> list[bytes]:
    from mdstream.simulator.encode import ENCODINGS
    from mdstream.simulator.markets import MARKETS
    from mdstream.simulator.traffic import generate

    stream, channels = (
        ("crypto", ["orderbooks"]) if traffic == "books" else ("stocks", ["trades", "quotes"])
    )
    names = [f"S{i}" for i in range(symbols)] if symbols == MANY_SYMBOLS else MARKETS[stream].universe
    generated = generate(stream, 1, dict.fromkeys(channels, names))
    # The simulator corrects two trades in a thousand, far more than real markets: leave these out.
    messages = (message for message in generated if message["T"] not in "cx")
    form = ENCODINGS[codec]
    count = MESSAGES // 8 if traffic == "books" else MESSAGES
    return [form.message(message) for message in itertools.islice(messages, count)]


def shift_minutes(payloads: Sequence[bytes], codec: str, minutes: int) -> list[bytes]:
    """Return the payloads with times `minutes` later, so that bars end."""
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
    """The pipeline of one stream, from payloads to frames."""

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
            pool.builders,
            pool.make_direct,
        )
        config = HandoffConfig(slab_kb=slab_kb)
        self.pipeline = Pipeline(run.path, stream, config, pool, self.committer, lambda _: None)

    async def take(self, payloads: Sequence[bytes], kind: Any) -> None:
        """Offer all payloads as fast as the pipeline accepts them, and drain it."""
        offer, put, now = self.pipeline.offer, self.pipeline.put, time.time_ns
        for payload in payloads:
            if not offer(payload, kind, now()):
                await put(payload, kind, now())
        await self.pipeline.drain()

    async def close(self) -> None:
        await self.pipeline.close()
        self.committer.close()


async def serve(workers: int, folder: str) -> None:
    """Run a subject: measure the case of each request with `workers`."""
    from mdstream.frames.rundir import RunDirectory
    from mdstream.pool.pool import WorkerPool

    material = Material(folder)
    pool = WorkerPool(workers, 60.0)
    await pool.start()
    try:
        for wanted in read_requests():
            with RunDirectory() as run, _pinned_to_cores(pool.pids, wanted.get("cores")):
                match wanted["what"]:
                    case "payloads":
                        found = await _measure_payloads(run, pool, material, wanted)
                    case "pages":
                        found = await _measure_pages(run, pool, material)
                    case _:
                        found = await _measure_single_messages(run, pool, material)
            answer({"workers": workers, **found})
    finally:
        await pool.close()


@contextlib.contextmanager
def _pinned_to_cores(pids: Sequence[int], cores: int | None) -> Iterator[None]:
    """Pin all threads of this process and of `pids` to `cores` cores (None: all) within the block."""
    every = sorted(os.sched_getaffinity(0))
    _pin_to_cores(pids, every[:cores])
    try:
        yield
    finally:
        _pin_to_cores(pids, every)


def _pin_to_cores(pids: Sequence[int], cores: Sequence[int]) -> None:
    for pid in (os.getpid(), *pids):
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores)


class Meter:
    """The CPU time of this process, of its loop's thread and of its pool, within `with` blocks."""

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

    def rates(self, messages: int) -> dict[str, float]:
        """Return the rate, and the costs per message."""
        seconds, feed, loop, workers = self._spent
        return {
            "messages_per_s": messages / seconds,
            "feed_ns": feed / messages * 1e9,
            "loop_ns": loop / messages * 1e9,
            "worker_ns": workers / messages * 1e9,
        }


async def _measure_payloads(
    run: Any, pool: Any, material: Material, wanted: dict[str, Any]
) -> dict[str, float]:
    from mdstream.simulator.encode import ENCODINGS
    from mdstream.streams.spec import PayloadKind

    codec, per = wanted["codec"], wanted["per_payload"]
    single = material.messages(wanted["traffic"], codec, wanted["symbols"])
    form = ENCODINGS[codec]
    payloads = [form.payload(single[i : i + per]) for i in range(0, len(single), per)]
    if per == 1 or wanted["slab_kb"] <= _SMALL_KB:  # slow cases
        payloads = payloads[: len(payloads) // 4]
    kind = PayloadKind.JSON if codec == "json" else PayloadKind.MSGPACK
    line = Line(run, "crypto" if wanted["traffic"] == "books" else "stocks", pool, wanted["slab_kb"])
    await line.take(payloads[: max(1, len(payloads) // 4)], kind)  # warm-up: learns layouts, maps memory
    before, meter, minute = line.state.read_committed(), Meter(pool.pids), 1
    while meter.seconds < TURN_S:
        batch = shift_minutes(payloads, codec, minute)
        minute += 1
        with meter:
            await line.take(batch, kind)
    done = line.state.read_committed()
    messages = done["committed"] - before["committed"]
    assert messages >= len(payloads), "the pipeline committed too few messages"
    assert done["rejected"] == 0, f"{done['rejected']} messages were rejected"
    await line.close()
    batches = done["batches"] - before["batches"]
    return {**meter.rates(messages), "messages_per_batch": messages / batches}


async def _measure_pages(run: Any, pool: Any, material: Material) -> dict[str, float]:
    from mdstream.handoff.compression import Compression
    from mdstream.streams.spec import PayloadKind

    pages = material.pages()
    line = Line(run, "stocks", pool, USUAL_KB)

    async def fetch(page: bytes) -> None:
        found = await line.pipeline.put_body(page, PayloadKind.TRADES, time.time_ns(), Compression.GZIP)
        assert not found.fault, found.fault

    await asyncio.gather(*(fetch(page) for page in pages[:4]))
    before, meter = line.state.read_committed()["fetch_committed"], Meter(pool.pids)
    while meter.seconds < TURN_S:
        with meter:
            await asyncio.gather(*(fetch(page) for page in pages))
    messages = line.state.read_committed()["fetch_committed"] - before
    assert messages % (PAGES * traffic.ROWS_A_PAGE) == 0
    await line.close()
    return meter.rates(messages)


async def _measure_single_messages(run: Any, pool: Any, material: Material) -> dict[str, float]:
    """Measure the time of single messages from `offer` to the frame, with pauses."""
    from mdstream.simulator.encode import ENCODINGS
    from mdstream.streams.spec import PayloadKind

    form = ENCODINGS["json"]
    single = material.messages("quotes", "json", SYMBOLS)[: QUIET + 50]
    line = Line(run, "stocks", pool, USUAL_KB)
    times = []
    for message in single:
        start = time.perf_counter()
        await line.take([form.payload([message])], PayloadKind.JSON)
        times.append((time.perf_counter() - start) * 1e6)
        await asyncio.sleep(0.001)
    await line.close()
    times = sorted(times[50:])
    return {"p50_us": statistics.median(times), "p99_us": times[int(len(times) * 0.99)]}


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
