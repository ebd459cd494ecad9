"""A writer that is killed at any step of a commit: no reader sees half of anything, and its successor ends right."""

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
from mdstream.streams.spec import BAR_INTERVALS, PayloadKind
from tests import expected, piping
from tests.docs import documents
from tests.forking import forked
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
"""Chunks of some 64 to 100 rows."""
FEW = Limits(retention=16_000, chunk=4096)
"""Two or three of them are kept."""
ASPECTS = ("trade_", "quote_")
HANDOFF = HandoffConfig(linger_ms=600_000)  # a batch ends where the test says so


# -- what comes: some messages before, a batch that is cut short, one more behind it


def crypto(i: int, symbol: str) -> Message:
    """Trades some of which have no side, quotes some of which have no bid, books that replace the former."""
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
    """Trades some of which have no conditions, quotes some of which have no ask, statuses with texts."""
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
    """Articles of all lengths, some of which have no summary."""
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
    """A REST body that brings a later trade, but no quote."""
    at = datetime.fromtimestamp(START / SECOND + second, UTC)
    state = {symbol: {"latestTrade": {"p": 7.5, "s": 3, "t": at}}}
    return orjson.dumps(state), PayloadKind.SNAPSHOTS, RECV_NS + second


# -- what readers see


class Seen(NamedTuple):
    """All that readers see at one moment: of frames the number of their first row, and the rows."""

    frames: dict[str, tuple[int, Rows]]
    latest: dict[str, dict[str, Any]]
    books: dict[str, Rows]


def plain(frame: pl.DataFrame) -> Rows:
    """Rows with times as nanoseconds and codes as texts."""
    columns = [
        column.cast(pl.String) if isinstance(column.dtype, pl.Categorical) else column.to_physical()
        for column in frame.get_columns()
    ]
    return list(zip(*(column.to_list() for column in columns), strict=True))


def seen(run: Attachment, stream: str) -> Seen:
    frames: dict[str, tuple[int, Rows]] = {}
    books: dict[str, Rows] = {}
    latest: dict[str, dict[str, Any]] = {}
    for name in run.frames:
        if not (run.path / "frames" / name / "head").exists():
            continue  # a view
        if name.endswith((".latest", ".books")):
            table = run.frame(name)
            for row in plain(table):
                if name.endswith(".latest"):
                    latest[row[0]] = dict(zip(table.columns, row, strict=True))
                else:
                    books.setdefault(row[0], []).append(row)
        elif name.startswith(stream):
            with run.lock:
                [part] = run.parts(name)
                first, frame = part.read()
            assert part.rows == first + frame.height
            frames[name] = first, plain(frame)
    return Seen(frames, latest, books)


class Model(NamedTuple):
    """What readers see before the batch, with all of it but its last payload, with it, and when all has come;
    how that is counted; and how many chunks were begun by the batch.
    """

    before: Seen
    between: Seen
    done: Seen
    end: Seen
    counts: dict[str, int]
    chunks: int


class Work(NamedTuple):
    """What is to be done, by one who dies in it (`plan`) and by its successor (`rest`), and what comes of it
    where there is little room for frames, and where there is much.
    """

    plan: dying.Plan
    rest: list[Payload]
    cramped: Model
    roomy: Model


def model(plan: dying.Plan, rest: list[Payload], limits: Limits) -> Model:
    """What an undisturbed writer makes of it."""
    before, done, end, counts, chunks = undisturbed(plan, rest, limits)
    _, between, *_ = undisturbed(plan._replace(batch=plan.batch[:-1]), rest, limits)
    return Model(before, between, done, end, counts, chunks)


def undisturbed(plan: dying.Plan, rest: list[Payload], limits: Limits) -> Any:
    """What readers see at three moments, how that is counted, and how many chunks the batch began."""

    async def go() -> Any:
        with RunDirectory() as directory:
            directory.describe()
            pool = WorkerPool(0, 30)
            rig = Rig(directory.path, plan.stream, pool, plan.rejects.parent, HANDOFF, limits)
            run = attach(directory.run)
            moments: list[Seen] = []
            chunks: list[int] = []
            for payloads in (*plan.before, plan.batch):
                await rig.feed(payloads)
                await rig.pipeline.drain()
                moments.append(seen(run, plan.stream))
                chunks.append(sum(f.head.end for f in rig.committer.frames.values()))
            await rig.feed(rest)
            await rig.drain()
            begun = chunks[-1] - chunks[-2]
            return *moments[-2:], seen(run, plan.stream), rig.state.committed(), begun

    return uvloop.run(go())


class Checked(NamedTuple):
    """What was found after a kill: rows of frames, and how many frames had the batch, and had it not."""

    rows: int
    with_batch: int
    without: int


def check(found: Seen, model: Model, full: Model) -> Checked:
    """Every frame has all of the batch or nothing of it, every row of a table is of one moment."""
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
    return Checked(rows, counts[1], counts[0])


async def succeed(work: Work, run: Path) -> dict[str, int]:
    """A successor's life: it takes over as a feed does, gets what is yet to come, and ends in good order."""
    stream, limits = work.plan.stream, work.plan.limits
    pool = WorkerPool(0, 30)
    rig = Rig(run, stream, pool, work.plan.rejects.parent, HANDOFF, limits)
    rows = rig.committer.committed_rows
    rig.committer.restore_bars(await pool.rebuild_partials(str(run), stream, rows))
    rig.pipeline.recover()
    await rig.pipeline.drain()
    await rig.feed(work.rest)
    await rig.drain()
    return rig.state.committed()


# -- the tests


@contextmanager
def committers(plan: dying.Plan) -> Iterator[Connection]:
    """A process that commits, and dies, as it is told."""
    context = forked()
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


def last_bars(end: Seen, name: str) -> dict[tuple[Any, Any], tuple[Any, ...]]:
    """What a bar is in the end, but for what a killed feed takes with it: the order of trades and quotes of
    one payload, which decides about open and close, and that nothing was missed.
    """
    return {
        (symbol, ts): (high, low, volume, count, vwap)
        for symbol, ts, _, high, low, _, volume, count, vwap, *_ in end.frames[name][1]
    }


def assert_as_undisturbed(end: Seen, work: Work) -> None:
    """What readers see in the end is what they see where nobody died."""
    built = {f"{work.plan.stream}.{name}" for name in BAR_INTERVALS}
    if work.plan.limits.retention > 1_000_000:
        for name in end.frames.keys() - built:
            assert end.frames[name] == work.cramped.end.frames[name], name
        for name in end.frames.keys() & built:
            assert last_bars(end, name) == last_bars(work.cramped.end, name)
        assert (end.latest, end.books) == (work.cramped.end.latest, work.cramped.end.books)
        return
    # The writer that died may have begun its chunks elsewhere, so that others go. Bars that were open lack what
    # was dropped of their trades: they are built again from those that are there.
    for name in end.frames.keys() - built:
        first, rows = end.frames[name]
        assert rows == work.roomy.end.frames[name][1][first:], name
        assert rows or first == 0
    assert (end.latest, end.books) == (work.cramped.end.latest, work.cramped.end.books)


def assert_open_to_strangers(folder: Path, rows: int) -> None:
    """The frame's last rows can be had with stock pyarrow, as docs/raw-arrow.md says, or it says that they cannot."""
    if not (folder / "head").exists() or folder.name.endswith((".latest", ".books")):
        return  # a view, or a table, which changes in place
    head = Head(folder, write=False)
    if all(head.entry(n).start_row >= head.rows for n in range(head.first, head.end)):
        return  # what is kept has no row yet: the writer dropped the rest, and died
    newest = documented_function("newest")
    file, there = newest(folder)
    assert 0 < there <= rows
    try:
        chunk = pa.ipc.open_file(pa.memory_map(file)).get_batch(0)
    except OSError:
        return  # it was being finished when the writer died; its successor does that
    table = pa.Table.from_batches([chunk.slice(0, there)])
    assert table.num_rows == there
    pl.DataFrame(table)


def documented_function(name: str) -> Any:
    """A function that docs/raw-arrow.md shows."""
    namespace: dict[str, Any] = {"np": np, "Path": Path}
    exec(documents.function(documents.ROOT / "docs" / "raw-arrow.md", name), namespace)
    return namespace[name]


def die_and_succeed(pipe: Connection, work: Work, step: int, early: bool) -> Checked:
    """Have a writer die at `step`, look at what it leaves, and have a successor go on. Who looks was there
    `early`, or comes when the writer is dead.
    """
    with RunDirectory() as directory:
        directory.describe()
        pipe.send(dying.Order(directory.path, step))
        assert pipe.recv() == "ready"
        run = attach(directory.run)
        for name in run.frames if early else ():
            run.frame(name)  # its chunks are mapped from now on
        pipe.send("go")
        assert pipe.recv() == signal.SIGKILL
        checked = check(seen(run, work.plan.stream), work.cramped, work.roomy)
        for name in run.frames:
            if name.startswith(work.plan.stream) and (rows := run.rows(name)):
                assert_open_to_strangers(run.path / "frames" / name, rows)
        counts = uvloop.run(succeed(work, directory.path))
        run = run if early else attach(directory.run)
        assert_as_undisturbed(seen(run, work.plan.stream), work)
        assert counts | {"batches": 0} == work.cramped.counts | {"batches": 0}
        return checked


def work_of(stream: str, before: int, size: int, limits: Limits, folder: Path) -> Work:
    """`before` messages, and `size` in the batch that is cut short, which has new symbols, nulls, a fetched
    state, something that is no message, and begins new chunks.
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
    cramped, roomy = (model(plan, payloads(last), limits) for limits in (plan.limits, piping.LIMITS))
    for channel, rows in expected.rows(stream, [*first, *cut, *last]).items():
        _, everything = roomy.end.frames[f"{stream}.{channel}"]
        columns = [c.name for c in STREAMS[stream].by_name[channel].columns]
        assert [dict(zip(columns, row, strict=True)) for row in everything] == [
            {**row, "recv_ts": got[-1]} for row, got in zip(rows, everything, strict=True)
        ], channel
    assert cramped.chunks > 0
    return Work(plan, payloads(last), cramped, roomy)


def kill_at_steps(work: Work, some: int = 0) -> list[Checked]:
    """Kill writers at every step of the commit that stores something, or at `some` of all steps, and behind
    the last one; what was found each time.
    """
    with committers(work.plan) as pipe:
        steps = find_steps(pipe, storing=not some)
        chosen = steps[:: len(steps) // some] if some else steps
        return [
            die_and_succeed(pipe, work, step, early=i % 2 == 0)
            for i, step in enumerate(sorted({*chosen, steps[-1]}))
        ]


def assert_thorough(found: list[Checked], kills: int) -> None:
    """Kills hit frames before, and after, they had the batch, and there was something to see."""
    assert len(found) >= kills
    assert found[0].rows > 50
    assert found[0].with_batch == 0 < found[0].without
    assert found[-1].without == 0 < found[-1].with_batch
    if found[0].without > 1:
        assert any(each.with_batch and each.without for each in found)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose writer is dead is not waited for."""
    monkeypatch.setattr(keyed_frame_reader, "_TORN_TIMEOUT_S", 0.01)


@pytest.mark.parametrize(
    ("stream", "before"), [pytest.param("crypto", 170, marks=pytest.mark.slow), ("news", 158)]
)
def test_a_small_commit_killed_at_every_step(tmp_path: Path, stream: str, before: int) -> None:
    found = kill_at_steps(work_of(stream, before, 12, SMALL, tmp_path))
    assert_thorough(found, 60)


@pytest.mark.parametrize("stream", MESSAGES)
def test_a_large_commit_killed_at_some_steps(tmp_path: Path, stream: str) -> None:
    assert_thorough(kill_at_steps(work_of(stream, 200, 200, SMALL, tmp_path), 24), 20)


def test_a_commit_that_drops_the_oldest_rows_killed_at_some_steps(tmp_path: Path) -> None:
    work = work_of("crypto", 300, 200, FEW, tmp_path)
    for name in ("crypto.trades", "crypto.orderbooks"):
        assert work.cramped.before.frames[name][0] < work.cramped.done.frames[name][0]
    assert_thorough(kill_at_steps(work, 24), 20)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("limits", [SMALL, FEW], ids=["kept", "dropped"])
@pytest.mark.parametrize("stream", MESSAGES)
def test_a_large_commit_killed_at_every_step(tmp_path: Path, stream: str, limits: Limits) -> None:
    assert_thorough(kill_at_steps(work_of(stream, 300, 300, limits, tmp_path)), 200)
