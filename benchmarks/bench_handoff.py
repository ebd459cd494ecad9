"""What does the pool bring: decoding and aggregating inline, or handed to workers?

The same payloads go through the same pipeline of the engine (slabs, tickets, commit in order, frames, last
values, bars) with nothing but the number of workers changed; 0 decodes in the feed's own process. Receiving
is not in it: the payloads are there when the clock starts.

    payloads   WebSocket payloads of stocks, 1 to 100 messages each, JSON and msgpack; 30 or 1,000 symbols
    batches    the same, by the size of the slabs: from where on a pool pays
    pages      gzip'd pages of history, 10,000 trades each
    books      crypto order books
    quiet      one payload at a time, as on a quiet stream: what the hand-off adds to it

`feed_ns` is the CPU time of the feed's process a message, `loop_ns` that of its loop's thread alone, which
nothing else can take over, and `worker_ns` that of all workers.
Each number of workers is a process of its own, and all take turns; medians are shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Answer, Case, Plan, Record, Subject, Table, answer, asked, cell

TAKES_S = (200.0, 25.0)
"""Seconds on 2 cores: all of it, and the quick part."""

TURNS = 3
TURN_S = 0.8
"""What is measured of a case in a turn, at least."""
MESSAGES = 200_000
ROWS_A_PAGE = 10_000
PAGES = 40
QUIET = 300
PER_PAYLOAD = (1, 2, 20, 100)
SLABS_KB = (16, 64, 256, 1024, 2048)
USUAL_KB = 1024
"""The engine's own."""
SYMBOLS = 30
MANY_SYMBOLS = 1_000


def worker_counts() -> list[int]:
    """Inline, and then up to one worker a core."""
    cores = os.cpu_count() or 1
    return [0, *sorted({n for n in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64) if n < cores} | {cores})]


# -- the payloads: made once, and read by every subject


class Material:
    """A folder of encoded messages, which the subjects read."""

    # The mutable state: what has been read.

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._read: dict[str, list[bytes]] = {}

    def messages(self, traffic: str, codec: str, symbols: int) -> list[bytes]:
        """Single messages, encoded."""
        return self._kept(
            f"{traffic}-{codec}-{symbols}", lambda: _messages(traffic, codec, symbols)
        )

    def pages(self) -> list[bytes]:
        """Pages of history, gzip'd."""
        return self._kept("pages", _pages)

    def _kept(self, name: str, make: Callable[[], list[bytes]]) -> list[bytes]:
        path = self._folder / name
        if not path.exists():
            path.write_bytes(pickle.dumps(make()))
        if name not in self._read:
            self._read[name] = pickle.loads(path.read_bytes())
        return self._read[name]


def _messages(traffic: str, codec: str, symbols: int) -> list[bytes]:
    from mdstream.simulator import flow
    from mdstream.simulator.encode import ENCODINGS
    from mdstream.simulator.market import UNIVERSE

    stream, channels = (
        ("crypto", ["orderbooks"]) if traffic == "books" else ("stocks", ["trades", "quotes"])
    )
    names = [f"S{i}" for i in range(symbols)] if symbols == MANY_SYMBOLS else UNIVERSE[stream]
    generated = flow.generated(stream, 1, dict.fromkeys(channels, names))
    # The simulator corrects two trades of a thousand, far more than happens: that is not measured here.
    messages = (message for message in generated if message["T"] not in "cx")
    form = ENCODINGS[codec]
    count = MESSAGES // 8 if traffic == "books" else MESSAGES
    return [form.message(message) for message in itertools.islice(messages, count)]


def _pages() -> list[bytes]:
    import gzip

    from mdstream.simulator.encode import to_json
    from mdstream.simulator.records import TRADES, History

    pages = []
    for page in range(PAGES):
        history, first = History("stocks", 1, f"S{page}"), 1_767_623_400 + page * ROWS_A_PAGE
        records = [TRADES.at(history, index) for index in range(first, first + ROWS_A_PAGE)]
        body = {"trades": {history.symbol: records}, "next_page_token": None}
        pages.append(gzip.compress(to_json(body), 6))
    return pages


def later(payloads: Sequence[bytes], codec: str, minutes: int) -> list[bytes]:
    """The same payloads so many minutes later: time goes on, or bars would not end."""
    from mdstream.simulator.encode import rfc3339
    from mdstream.simulator.flow import START_NS

    start = START_NS // 1_000_000_000
    if codec == "json":
        old, new = (rfc3339((start + 60 * m) * 1_000_000_000)[:17].encode() for m in (0, minutes))
        return [payload.replace(old, new) for payload in payloads]
    # A timestamp is 34 bits of seconds behind 30 of nanoseconds: the last four bytes are seconds.
    seconds = [(start + s).to_bytes(4, "big") for s in range(60)]
    changed = [(start + 60 * minutes + s).to_bytes(4, "big") for s in range(60)]
    whole = [*payloads]
    for old, new in zip(seconds, changed, strict=True):
        whole = [payload.replace(old, new) for payload in whole]
    return whole


# -- a subject: the engine's pipeline, without a session


class Line:
    """The pipeline of one stream in a run of its own, from payloads to frames."""

    def __init__(self, run: Any, stream: str, pool: Any, slab_kb: int) -> None:
        from mdstream.commit import Committer
        from mdstream.config import HandoffConfig
        from mdstream.frames.rundir import state_path
        from mdstream.frames.writer import Limits
        from mdstream.pipeline import Pipeline
        from mdstream.rejects import RejectFile
        from mdstream.streams import STREAMS
        from mdstream.telemetry.state import FeedState

        self.state = FeedState.create(state_path(run.path, stream))
        self.committer = Committer(
            run.path, STREAMS[stream], self.state, Limits(64_000_000, 16_000_000),
            RejectFile(run.path / "rejects"), pool.make_bars,
        )  # fmt: skip
        config = HandoffConfig(slab_kb=slab_kb)
        self.pipeline = Pipeline(run.path, stream, config, pool, self.committer, lambda _: None)

    async def take(self, payloads: Sequence[bytes], kind: Any) -> None:
        """Take payloads as fast as they are committed, until all are."""
        offer, put, now = self.pipeline.offer, self.pipeline.put, time.time_ns
        for payload in payloads:
            if not offer(payload, kind, now()):
                await put(payload, kind, now())
        await self.pipeline.drain()

    def close(self) -> None:
        self.pipeline.close()
        self.committer.close()


async def serve(workers: int, folder: str) -> None:
    """A subject: this many workers, and whatever is asked of them."""
    from mdstream.frames.rundir import RunDirectory
    from mdstream.pool import WorkerPool

    material = Material(folder)
    pool = WorkerPool(workers, 60.0)
    await pool.start()
    for wanted in asked():
        with RunDirectory() as run:
            match wanted["what"]:
                case "payloads":
                    found = await _payloads(run, pool, material, wanted)
                case "pages":
                    found = await _gzipped(run, pool, material)
                case _:
                    found = await _one_by_one(run, pool, material)
        answer({"workers": workers, **found})
    await pool.close()


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


async def _payloads(
    run: Any, pool: Any, material: Material, wanted: dict[str, Any]
) -> dict[str, float]:
    from mdstream.simulator.encode import ENCODINGS
    from mdstream.streams.spec import PayloadKind

    codec, per = wanted["codec"], wanted["per_payload"]
    single = material.messages(wanted["traffic"], codec, wanted["symbols"])
    form = ENCODINGS[codec]
    payloads = [form.payload(single[i : i + per]) for i in range(0, len(single), per)]
    if per == 1:
        payloads = payloads[: len(payloads) // 4]
    kind = PayloadKind.JSON if codec == "json" else PayloadKind.MSGPACK
    line = Line(
        run, "crypto" if wanted["traffic"] == "books" else "stocks", pool, wanted["slab_kb"]
    )
    await line.take(payloads[: max(1, len(payloads) // 4)], kind)  # layouts learned, memory there
    before, meter, minute = line.state.committed(), Meter(pool.pids), 1
    while meter.seconds < TURN_S:
        coming = later(payloads, codec, minute)
        minute += 1
        with meter:
            await line.take(coming, kind)
    done = line.state.committed()
    messages = done["messages"] - before["messages"]
    assert messages >= len(payloads), "nothing was done"
    assert done["rejected"] == 0, f"{done['rejected']} messages were rejected"
    line.close()
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
    before, meter = line.state.committed()["fetch_messages"], Meter(pool.pids)
    while meter.seconds < TURN_S:
        with meter:
            await asyncio.gather(*(fetch(page) for page in pages))
    messages = line.state.committed()["fetch_messages"] - before
    assert messages % (PAGES * ROWS_A_PAGE) == 0
    line.close()
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
    line.close()
    taken = sorted(taken[50:])
    return {"p50_us": statistics.median(taken), "p99_us": taken[int(len(taken) * 0.99)]}


# -- the comparison


def cases(plan: Plan) -> list[Case]:
    """Everything that is asked of every number of workers."""
    usual = {
        "traffic": "quotes",
        "codec": "json",
        "symbols": SYMBOLS,
        "per_payload": 20,
        "slab_kb": USUAL_KB,
    }
    sizes = plan.of(PER_PAYLOAD, (1, 20))
    asked = [
        {**usual, "codec": c, "per_payload": n}
        for c in plan.of(("json", "msgpack"), ("json",))
        for n in sizes
    ]
    if not plan.quick:
        asked += [{**usual, "symbols": MANY_SYMBOLS}, {**usual, "traffic": "books"}]
        asked += [{**usual, "slab_kb": size} for size in SLABS_KB if size != USUAL_KB]
    questions = [("handoff", {"what": "payloads", **each}) for each in asked]
    questions += [("handoff", {"what": "pages"}), ("handoff", {"what": "quiet"})]
    return [
        Case(question, _name(workers), params)
        for question, params in questions
        for workers in worker_counts()
    ]


def _name(workers: int) -> str:
    return f"{workers} workers" if workers else "inline"


def run(plan: Plan) -> list[Record]:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        subjects = {
            _name(n): stack.enter_context(Subject("benchmarks.bench_handoff", str(n), folder))
            for n in worker_counts()
        }

        def measure(case: Case) -> Answer:
            return subjects[case.subject].ask(**case.params)

        return plan.in_turns("handoff", cases(plan), measure, plan.of(TURNS, 2))


def tables(records: Sequence[Record]) -> list[Table]:
    """What to show of the records: a row for each case and number of workers."""
    rows, quiet = [], []
    for record in records:
        if record["params"]["what"] == "quiet":
            cells = (cell(record, "p50_us", digits=0), cell(record, "p99_us", digits=0))
            quiet.append((record["subject"], *cells))
            continue
        inline = next(r for r in records if r["params"] == record["params"])
        ratio = record["messages_per_s"] / inline["messages_per_s"]
        rows.append(
            (
                described(record["params"]), record["subject"],
                cell(record, "messages_per_s", 1e6, 2), f"{ratio:.2f}",
                cell(record, "feed_ns", digits=0), cell(record, "loop_ns", digits=0),
                cell(record, "worker_ns", digits=0),
            )
        )  # fmt: skip
    headings = ("", "", "M messages/s", "× inline", "feed ns", "its loop ns", "workers ns")
    return [
        Table("Decode, aggregate and commit, by the number of workers", headings, rows),
        Table("One message at a time: offered → in the frame", ("", "p50 µs", "p99 µs"), quiet),
    ]


def fitted(records: Sequence[Record]) -> Callable[[int], float] | None:
    """Messages/s by the number of workers, with a core for each process: a model, by what one worker cost.

    The feed's process is one, whatever it hands over, and workers share theirs: the slower of both decides.
    """
    one = next((r for r in records if r["workers"] == 1), None)
    if one is None or not one.get("worker_ns"):
        return None
    inline = records[0]["messages_per_s"]

    def rate(workers: int) -> float:
        if workers == 0:
            return float(inline)
        return 1e9 * min(1 / float(one["feed_ns"]), workers / float(one["worker_ns"]))

    return rate


def described(params: Mapping[str, Any]) -> str:
    """A case in words."""
    match params:
        case {"what": "pages"}:
            return f"gzip'd pages of {ROWS_A_PAGE:,} trades"
        case {"traffic": "books"}:
            return f"order books, {params['per_payload']} a payload"
        case {"what": "payloads", "codec": codec, "per_payload": per, "symbols": symbols}:
            return f"{codec}, {per} a payload, {symbols:,} symbols, slabs of {params['slab_kb']} kB"
    return "single messages"


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
