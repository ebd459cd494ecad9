"""Kills of a writer at any step of a commit: readers see no partial data, and a successor completes it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pytest
import uvloop

from mdstream.config import HandoffConfig
from mdstream.frames.head import Head
from mdstream.frames.rundir import RunDirectory
from mdstream.frames.writer import Limits
from mdstream.pool.pool import WorkerPool
from mdstream.reading import keyed_frame_reader
from mdstream.reading.attach import Attachment, attach
from mdstream.streams import STREAMS
from mdstream.streams.bar_rules import BAR_INTERVALS
from mdstream.streams.spec import PayloadKind
from tests import expected, piping
from tests.docs import documents
from tests.forking import get_fork_context
from tests.frames import dying
from tests.piping import Payload, Rig
from tests.running import HANGING_S

Message = dict[str, Any]
Rows = list[tuple[Any, ...]]

START = 1_704_067_200_000_000_000  # 2024-01-01
SECOND = 1_000_000_000
RECV_NS = 1_704_070_000_000_000_000
TIMES = ("t", "created_at", "updated_at")
SMALL = Limits(retention=64_000_000, chunk=4096)
"""Chunks of about 64 to 100 rows."""
FEW = Limits(retention=16_000, chunk=4096)
"""The frame keeps two or three such chunks."""
ASPECTS = ("trade_", "quote_")
HANDOFF = HandoffConfig(linger_ms=600_000)  # only the test ends a batch


# -- the messages: some before, a batch that a kill interrupts, and one more after it


def crypto(i: int, symbol: str) -> Message:
    """Return a crypto message: a trade (some without side), a quote (some without bid) or a whole book."""
    head = {"S": symbol, "t": START + i * 7 * SECOND}
    if i % 4 == 1:
        bid = 0.0 if i % 8 == 1 else 40.0 + i
        return {"T": "q", **head, "bp": bid, "bs": 1.5, "ap": 41.0 + i, "as": 2.5}
    if i % 4 == 3:
        levels = {"b": [{"p": 40.0 - n, "s": 1.0 + i} for n in range(2)], "a": [{"p": 41.0, "s": i}]}
        return {"T": "o", **head, "r": True, **levels}
    side = None if i % 3 == 0 else "BS"[i % 2]
    return {"T": "t", **head, "p": 100.0 + i % 11, "s": 0.5 + i, "i": i, "tks": side}


def stocks(i: int, symbol: str) -> Message:
    """Return a stock message: a trade (some without conditions), a quote (some without ask) or a status."""
    head = {"S": symbol, "t": START + i * 7 * SECOND, "z": "C"}
    if i % 4 == 1:
        ask = 0.0 if i % 8 == 1 else 41.0 + i
        sides = {"bp": 40.0 + i, "bs": i, "bx": "V", "ap": ask, "as": 2, "ax": "V"}
        return {"T": "q", **head, **sides, "c": ["R"]}
    if i % 8 == 3:
        text = None if i % 16 == 3 else f"because of {i}"
        return {"T": "s", **head, "sc": "H", "sm": f"halt {i}", "rc": None, "rm": text}
    condition = None if i % 6 == 0 else ["@"]
    price = 100.0 + i % 11
    return {"T": "t", **head, "x": "V", "p": price, "s": 10 + i, "c": condition, "i": i}


def news(i: int, symbol: str) -> Message:
    """Return an article. Their lengths differ, and some have no summary."""
    at = START + i * 7 * SECOND
    return {
        "T": "n",
        "id": i,
        "headline": f"no. {i}",
        "summary": None if i % 3 == 0 else "s" * (i % 50),
        "author": "a",
        "source": "b",
        "url": None,
        "content": "c" * (i * 37 % 200),
        "symbols": [symbol, "ALL"][: 1 + i % 2],
        "created_at": at,
        "updated_at": at,
    }


MESSAGES: dict[str, Callable[[int, str], Message]] = {"crypto": crypto, "stocks": stocks, "news": news}


def messages(stream: str, start: int, stop: int, *symbols: str) -> list[Message]:
    return [MESSAGES[stream](i, symbols[i % len(symbols)]) for i in range(start, stop)]


def payloads(batch: list[Message], per: int = 7) -> list[Payload]:
    def wire(message: Message) -> Message:
        times = {key: message[key] for key in TIMES if key in message}
        return {**message, **{k: datetime.fromtimestamp(t / SECOND, UTC) for k, t in times.items()}}

    out = []
    for start in range(0, len(batch), per):
        data = orjson.dumps([wire(m) for m in batch[start : start + per]])
        out.append((data, PayloadKind.JSON, RECV_NS + start))
    return out


def snapshot(symbol: str, second: int) -> Payload:
    """Return a REST body with a later trade, but no quote."""
    at = datetime.fromtimestamp(START / SECOND + second, UTC)
    state = {symbol: {"latestTrade": {"p": 7.5, "s": 3, "t": at}}}
    return orjson.dumps(state), PayloadKind.SNAPSHOTS, RECV_NS + second


# -- the readers' view


class View(NamedTuple):
    """All data that readers see at one moment. A frame has the number of its first row, and its rows."""

    frames: dict[str, tuple[int, Rows]]
    latest: dict[str, dict[str, Any]]
    books: dict[str, Rows]


def read_rows(frame: pl.DataFrame) -> Rows:
    """Return the rows of a frame, with times as nanoseconds and codes as texts."""
    columns = [
        column.cast(pl.String) if isinstance(column.dtype, pl.Categorical) else column.to_physical()
        for column in frame.get_columns()
    ]
    return list(zip(*(column.to_list() for column in columns), strict=True))


def read_view(run: Attachment, stream: str) -> View:
    frames: dict[str, tuple[int, Rows]] = {}
    books: dict[str, Rows] = {}
    latest: dict[str, dict[str, Any]] = {}
    for name in run.frames:
        if not (run.path / "frames" / name / "head").exists():
            continue  # a view
        if name.endswith((".latest", ".books")):
            table = run.frame(name)
            for row in read_rows(table):
                if name.endswith(".latest"):
                    latest[row[0]] = dict(zip(table.columns, row, strict=True))
                else:
                    books.setdefault(row[0], []).append(row)
        elif name.startswith(stream):
            with run.lock:
                [part] = run.parts(name)
                first, frame = part.read()
            assert part.rows == first + frame.height
            frames[name] = first, read_rows(frame)
    return View(frames, latest, books)


class Model(NamedTuple):
    """The expected data, as readers see it at four moments.

    The moments are: before the batch (`before`), with the batch except its last payload (`between`), with
    the whole batch (`done`), and at the end (`end`). `counts` are the final counters; `chunks` is the
    number of chunks that the batch began.
    """

    before: View
    between: View
    done: View
    end: View
    counts: dict[str, int]
    chunks: int


class Work(NamedTuple):
    """The work of the killed writer (`plan`) and of its successor (`rest`).

    `cramped` is the expected data with the plan's limits; `roomy` is the expected data with ample room.
    """

    plan: dying.Plan
    rest: list[Payload]
    cramped: Model
    roomy: Model


def make_model(plan: dying.Plan, rest: list[Payload], limits: Limits) -> Model:
    """Return the data that a writer produces without a kill."""
    before, done, end, counts, chunks = run_undisturbed(plan, rest, limits)
    _, between, *_ = run_undisturbed(plan._replace(batch=plan.batch[:-1]), rest, limits)
    return Model(before, between, done, end, counts, chunks)


def run_undisturbed(plan: dying.Plan, rest: list[Payload], limits: Limits) -> Any:
    """Run a writer without a kill; return three views, the counters, and the batch's number of chunks."""

    async def go() -> Any:
        with RunDirectory() as directory:
            directory.describe()
            pool = WorkerPool(0, 30)
            rig = Rig(directory.path, plan.stream, pool, plan.rejects.parent, HANDOFF, limits)
            run = attach(directory.run)
            moments: list[View] = []
            chunks: list[int] = []
            for payloads in (*plan.before, plan.batch):
                await rig.feed(payloads)
                await rig.pipeline.drain()
                moments.append(read_view(run, plan.stream))
                chunks.append(sum(f.head.end for f in rig.committer.frames.values()))
            await rig.feed(rest)
            await rig.drain()
            begun = chunks[-1] - chunks[-2]
            return *moments[-2:], read_view(run, plan.stream), rig.state.read_committed(), begun

    return uvloop.run(go())


class Result(NamedTuple):
    """The state after a kill: rows of all frames, frames that have the batch, and frames that do not."""

    rows: int
    with_batch: int
    without: int


def check(found: View, model: Model, full: Model) -> Result:
    """Check that each frame has all of the batch or none of it, and each table row is from one moment."""
    rows, counts = 0, [0, 0]
    for name, (first, got) in found.frames.items():
        _, everything = full.end.frames[name]
        ends = [len(moment.frames[name][1]) for moment in (full.before, full.done)]
        assert first + len(got) in ends, name
        assert got == everything[first : first + len(got)], name
        assert first <= max(model.done.frames[name][0], model.before.frames[name][0])
        rows += len(got)
        if ends[0] != ends[1]:
            counts[ends.index(first + len(got))] += 1
    changed = {s for s, row in model.done.latest.items() if row != model.before.latest.get(s)}
    assert model.before.latest.keys() - changed <= found.latest.keys() <= model.done.latest.keys()
    for symbol, row in found.latest.items():
        moments = [m.latest.get(symbol) for m in (model.before, model.between, model.done)]
        for aspect in ASPECTS:
            mine = [c for c in row if c.startswith(aspect)]
            allowed = [[m[c] if m else None for c in mine] for m in moments]
            assert [row[c] for c in mine] in allowed, (symbol, aspect)
    changed = {s for s, book in model.done.books.items() if book != model.before.books.get(s)}
    assert model.before.books.keys() - changed <= found.books.keys() <= model.done.books.keys()
    for symbol, book in found.books.items():
        assert book in (model.before.books.get(symbol), model.done.books[symbol]), symbol
    return Result(rows, counts[1], counts[0])


async def run_successor(work: Work, run: Path) -> dict[str, int]:
    """Take over a run as a feed does, feed it the remaining messages, and close it; return its counters."""
    stream, limits = work.plan.stream, work.plan.limits
    pool = WorkerPool(0, 30)
    rig = Rig(run, stream, pool, work.plan.rejects.parent, HANDOFF, limits)
    rows = rig.committer.committed_rows
    rig.committer.restore_bars(await pool.rebuild_partials(str(run), stream, rows))
    rig.pipeline.recover()
    await rig.pipeline.drain()
    await rig.feed(work.rest)
    await rig.drain()
    return rig.state.read_committed()


# -- the tests


@contextmanager
def start_committer(plan: dying.Plan) -> Iterator[Connection]:
    """Start a process that commits, and dies, on orders; yield the pipe to it."""
    context = get_fork_context()
    ours, theirs = context.Pipe()
    process = context.Process(target=dying.serve, args=(plan, theirs))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.send(None)
        process.join(HANGING_S)
        assert process.exitcode == 0


def find_steps(pipe: Connection, storing: bool) -> list[int]:
    with RunDirectory() as directory:
        pipe.send(dying.Order(directory.path, None, storing))
        assert pipe.recv() == "ready"
        pipe.send("go")
        steps: list[int] = pipe.recv()
        return steps


def last_bars(end: View, name: str) -> dict[tuple[Any, Any], tuple[Any, ...]]:
    """Return the final bars without the values that a kill may change.

    A kill loses the order of trades and quotes in a payload, which decides open and close. It also loses
    the knowledge that no trade was missed.
    """
    return {
        (symbol, ts): (high, low, volume, count, vwap)
        for symbol, ts, _, high, low, _, volume, count, vwap, *_ in end.frames[name][1]
    }


def assert_same_as_undisturbed(end: View, work: Work) -> None:
    """Assert that readers see the same data at the end as without a kill."""
    built = {f"{work.plan.stream}.{name}" for name in BAR_INTERVALS}
    if work.plan.limits.retention > 1_000_000:
        for name in end.frames.keys() - built:
            assert end.frames[name] == work.cramped.end.frames[name], name
        for name in end.frames.keys() & built:
            assert last_bars(end, name) == last_bars(work.cramped.end, name)
        assert (end.latest, end.books) == (work.cramped.end.latest, work.cramped.end.books)
        return
    # The killed writer may have begun its chunks at other rows, so that it dropped other chunks. Open bars
    # are rebuilt from the trades that the frame still has, and lack the dropped ones.
    for name in end.frames.keys() - built:
        first, rows = end.frames[name]
        assert rows == work.roomy.end.frames[name][1][first:], name
        assert rows or first == 0
    assert (end.latest, end.books) == (work.cramped.end.latest, work.cramped.end.books)


def assert_readable_with_pyarrow(folder: Path, rows: int) -> None:
    """Assert that pyarrow alone reads the last rows, as docs/raw-arrow.md says, or refuses the file.

    It refuses a chunk that its writer was sealing when it died.
    """
    if not (folder / "head").exists() or folder.name.endswith((".latest", ".books")):
        return  # a view, or a table, which is updated in place
    head = Head(folder, write=False)
    if all(head.entry(n).start_row >= head.rows for n in range(head.first, head.end)):
        return  # the kept chunks have no rows yet: the writer dropped the others, and died
    newest = load_documented_function("newest")
    file, there = newest(folder)
    assert 0 < there <= rows
    try:
        chunk = pa.ipc.open_file(pa.memory_map(file)).get_batch(0)
    except OSError:
        return  # the writer died while it sealed this chunk; its successor seals it
    table = pa.Table.from_batches([chunk.slice(0, there)])
    assert table.num_rows == there
    pl.DataFrame(table)


def load_documented_function(name: str) -> Any:
    """Return a function that docs/raw-arrow.md shows."""
    namespace: dict[str, Any] = {"np": np, "Path": Path}
    exec(documents.function(documents.ROOT / "docs" / "raw-arrow.md", name), namespace)
    return namespace[name]


def kill_at_step(pipe: Connection, work: Work, step: int, early: bool) -> Result:
    """Kill a writer at `step`, check the data that it leaves, and let a successor continue.

    The reader attaches before the kill (`early`) or after it.
    """
    with RunDirectory() as directory:
        directory.describe()
        pipe.send(dying.Order(directory.path, step))
        assert pipe.recv() == "ready"
        run = attach(directory.run)
        for name in run.frames if early else ():
            run.frame(name)  # maps its chunks
        pipe.send("go")
        assert pipe.recv() == signal.SIGKILL
        checked = check(read_view(run, work.plan.stream), work.cramped, work.roomy)
        for name in run.frames:
            if name.startswith(work.plan.stream) and (rows := run.rows(name)):
                assert_readable_with_pyarrow(run.path / "frames" / name, rows)
        counts = uvloop.run(run_successor(work, directory.path))
        run = run if early else attach(directory.run)
        assert_same_as_undisturbed(read_view(run, work.plan.stream), work)
        assert counts | {"batches": 0} == work.cramped.counts | {"batches": 0}
        return checked


def make_work(stream: str, before: int, size: int, limits: Limits, folder: Path) -> Work:
    """Return work with `before` messages before the batch, and `size` messages in it.

    The batch has new symbols, nulls, a fetched state and an invalid payload, and it begins new chunks.
    """
    symbols = ("A/USD", "B/USD")
    end = before + size
    first = messages(stream, 0, before, *symbols)
    cut = messages(stream, before, end, "C/USD", *symbols)
    last = messages(stream, end, end + 60, "D/USD", *symbols)
    batch = [*payloads(cut), (b"garbage \xff", PayloadKind.JSON, RECV_NS)]
    if stream != "news":
        batch.append(snapshot("B/USD", 7 * end))
    half = before // 2
    former = [payloads(first[:half]), payloads(first[half:])]
    plan = dying.Plan(stream, former, batch, limits, folder / f"{stream}.jsonl")
    cramped, roomy = (make_model(plan, payloads(last), limits) for limits in (plan.limits, piping.LIMITS))
    for channel, rows in expected.rows(stream, [*first, *cut, *last]).items():
        _, everything = roomy.end.frames[f"{stream}.{channel}"]
        columns = [c.name for c in STREAMS[stream].by_name[channel].columns]
        assert [dict(zip(columns, row, strict=True)) for row in everything] == [
            {**row, "recv_ts": got[-1]} for row, got in zip(rows, everything, strict=True)
        ], channel
    assert cramped.chunks > 0
    return Work(plan, payloads(last), cramped, roomy)


def kill_at_steps(work: Work, some: int = 0) -> list[Result]:
    """Kill a writer at each step of the commit that stores something; return the result of each kill.

    `some` limits this to that many of all steps. One more kill comes after the last step.
    """
    with start_committer(work.plan) as pipe:
        steps = find_steps(pipe, storing=not some)
        chosen = steps[:: len(steps) // some] if some else steps
        return [
            kill_at_step(pipe, work, step, early=i % 2 == 0)
            for i, step in enumerate(sorted({*chosen, steps[-1]}))
        ]


def assert_thorough(found: list[Result], kills: int) -> None:
    """Assert that kills hit frames before and after they had the batch, and that frames had rows."""
    assert len(found) >= kills
    assert found[0].rows > 50
    assert found[0].with_batch == 0 < found[0].without
    assert found[-1].without == 0 < found[-1].with_batch
    if found[0].without > 1:
        assert any(each.with_batch and each.without for each in found)


@pytest.fixture(autouse=True)
def shorten_torn_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make readers give up early on a row whose writer is dead."""
    monkeypatch.setattr(keyed_frame_reader, "_TORN_TIMEOUT_S", 0.01)


@pytest.mark.parametrize(
    ("stream", "before"), [pytest.param("crypto", 170, marks=pytest.mark.slow), ("news", 158)]
)
def test_a_small_commit_killed_at_every_step(tmp_path: Path, stream: str, before: int) -> None:
    found = kill_at_steps(make_work(stream, before, 12, SMALL, tmp_path))
    assert_thorough(found, 60)


@pytest.mark.parametrize("stream", MESSAGES)
def test_a_large_commit_killed_at_some_steps(tmp_path: Path, stream: str) -> None:
    assert_thorough(kill_at_steps(make_work(stream, 200, 200, SMALL, tmp_path), 24), 20)


def test_a_commit_that_drops_the_oldest_rows_killed_at_some_steps(tmp_path: Path) -> None:
    work = make_work("crypto", 300, 200, FEW, tmp_path)
    for name in ("crypto.trades", "crypto.orderbooks"):
        assert work.cramped.before.frames[name][0] < work.cramped.done.frames[name][0]
    assert_thorough(kill_at_steps(work, 24), 20)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("limits", [SMALL, FEW], ids=["kept", "dropped"])
@pytest.mark.parametrize("stream", MESSAGES)
def test_a_large_commit_killed_at_every_step(tmp_path: Path, stream: str, limits: Limits) -> None:
    assert_thorough(kill_at_steps(make_work(stream, 300, 300, limits, tmp_path)), 200)
