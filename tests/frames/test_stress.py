"""One writer at full speed, and ten readers that read, follow and are killed: all values are correct."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, auto
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.head import Head
from mdstream.frames.keyed_frame import KeyedFrameWriter
from mdstream.frames.rundir import RunDirectory, dictionary_path, frame_path
from mdstream.frames.share import Share
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.reading.attach import Attachment, attach
from mdstream.streams.spec import Column, Kind
from tests.forking import get_fork_context
from tests.running import HANGING_S, until

Numbers = npt.NDArray[np.int64]

SYMBOL = Column("symbol", Kind.SYMBOL, "S", required=True, dictionary="symbols")
ROWS = (
    SYMBOL,
    Column("ts", Kind.TIME, required=True),  # the number of the row; all other values follow from it
    Column("price", Kind.FLOAT),
    Column("flag", Kind.BOOL, default=False),
    Column("text", Kind.TEXT),
    Column("check", Kind.UINT, required=True),
)
LATEST = (
    SYMBOL,
    Column("ts", Kind.TIME),  # the number of the update; it and the symbol determine all other values
    Column("price", Kind.FLOAT),
    Column("size", Kind.INT),
    Column("check", Kind.UINT),
    Column("version", Kind.UINT, required=True),
)
LIMITS = Limits(retention=1_500_000, chunk=32_000)
SYMBOLS = 3000
READERS = 10
MAX_READERS = 400


class Counter(IntEnum):
    """The counters of a reader. They are in shared memory, because it may be killed at any moment."""

    ROWS = 0
    """Rows of the frame that the reader has checked."""
    FOLLOWED = auto()
    """Rows that it received from a tail."""
    MISSED = auto()
    """Rows that the tail reports as missed."""
    NEXT = auto()
    """The next row of the tail."""
    TABLE_ROWS = auto()
    ATTACHED = auto()


# -- the model


def checksum(numbers: Numbers, salt: Any = 0) -> npt.NDArray[np.uint64]:
    """Return a checksum of each number."""
    bits = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray(bits ^ (bits >> np.uint64(29)) ^ np.asarray(salt, np.uint64))


def make_rows(start: int, count: int) -> list[ColumnData]:
    """Return rows of the frame, as its writer receives them."""
    n = np.arange(start, start + count)
    texts = [b"" if i % 5 == 0 else b"%d" % i for i in n.tolist()]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return [
        ColumnData((n % SYMBOLS).astype(np.uint32)),
        ColumnData(n),
        ColumnData(n * 0.5, n % 3 != 0),
        ColumnData(n % 7 == 0),
        ColumnData(ends, n % 5 != 0, np.frombuffer(b"".join(texts), np.uint8)),
        ColumnData(checksum(n)),
    ]


def check_rows(frame: pl.DataFrame) -> Numbers:
    """Check every value of a reader's rows; return their numbers, which must be consecutive."""
    n: Numbers = frame["ts"].to_physical().to_numpy()
    assert (np.diff(n) == 1).all()
    wanted = pl.DataFrame({"n": n}).select(
        price=pl.when(pl.col("n") % 3 != 0).then(pl.col("n") * 0.5),
        flag=pl.col("n") % 7 == 0,
        text=pl.when(pl.col("n") % 5 != 0).then(pl.col("n").cast(pl.String)),
    )
    for name in wanted.columns:
        assert frame[name].equals(wanted[name], null_equal=True), name
    assert (frame["check"].to_numpy() == checksum(n)).all()
    assert (frame["symbol"].to_physical().to_numpy() == n % SYMBOLS).all()
    assert frame["symbol"].cast(pl.String).tail(3).to_list() == [f"S{i % SYMBOLS}" for i in n[-3:]]
    return n


def make_update(turn: int, rows: Numbers) -> list[tuple[int, ColumnData]]:
    """Return the values that update `turn` writes into rows of the table."""
    n = np.full(len(rows), turn)
    there = n % 4 != 0
    size = ColumnData(n * 3, None if there.all() else there)
    return [(1, ColumnData(n)), (2, ColumnData(n / 2)), (3, size), (4, ColumnData(checksum(n, rows)))]


def check_table(frame: pl.DataFrame, last: Numbers) -> None:
    """Check that each row is from one update, and not from an older one than `last` has for it."""
    turn: Numbers = frame["ts"].to_physical().to_numpy()
    code = frame["symbol"].to_physical().to_numpy().astype(np.int64)
    assert (turn >= last[code]).all()
    last[code] = turn
    assert (frame["price"].to_numpy() == turn / 2).all()
    assert (frame["size"].is_null().to_numpy() == (turn % 4 == 0)).all()
    size = frame["size"].fill_null(0).to_numpy()
    assert (size == np.where(turn % 4 == 0, 0, turn * 3)).all()
    assert (frame["check"].to_numpy() == checksum(turn, code)).all()


# -- the processes


class Shared(NamedTuple):
    """The memory that the processes share beside the run: a stop flag, and the counters of each reader."""

    over: Any
    counters: Any

    def add(self, reader: int, counter: Counter, value: int) -> None:
        self.counters[reader * len(Counter) + counter] += value

    def put(self, reader: int, counter: Counter, value: int) -> None:
        self.counters[reader * len(Counter) + counter] = value

    def of(self, counter: Counter) -> list[int]:
        return list(self.counters[counter :: len(Counter)])

    def sums(self) -> dict[str, int]:
        """Return the sums of the counters of all readers."""
        return {counter.name: sum(self.of(counter)) for counter in Counter if counter is not Counter.NEXT}


def write(run: Path, shared: Shared) -> None:
    """Write a few rows, update the table, and repeat until the stop flag is set."""
    chance = np.random.default_rng(1)
    frame = FrameWriter(frame_path(run, "test.rows"), ROWS, LIMITS)
    table = KeyedFrameWriter(frame_path(run, "test.latest"), LATEST, Share(1 << 40))
    turn = 0
    while not shared.over[0]:
        frame.append(make_rows(frame.rows, int(chance.integers(1, 200))))
        turn += 1
        most = min(SYMBOLS, 50 + turn)  # the table grows from time to time
        rows = chance.permutation(most)[: chance.integers(1, 300)]
        table.update(rows, make_update(turn, rows), (1, 1))
    frame.close()
    table.close()


def follow(run: Attachment, shared: Shared, reader: int, **how: Any) -> None:
    """Follow the frame until the writer has ended: no row is missing unless the tail counts it."""
    chance = random.Random(reader)
    tail = run.tail("test.rows", **how)
    [at] = tail._next.values()
    missed = 0
    for new in tail:
        n = check_rows(new)
        assert n[0] == at + tail.missed - missed
        at, missed = int(n[-1]) + 1, tail.missed
        shared.add(reader, Counter.FOLLOWED, len(n))
        shared.put(reader, Counter.MISSED, missed)
        shared.put(reader, Counter.NEXT, at)
        if how and chance.random() < 0.02:
            time.sleep(0.5)  # a reader that is late
    assert run.rows("test.rows") == at


def look(run: Attachment, shared: Shared, reader: int, anew: bool) -> None:
    """Read the frame and the table repeatedly, with the same attachment or (`anew`) with new ones."""
    seen, last = 0, np.zeros(SYMBOLS, np.int64)
    while not shared.over[0]:
        if anew:
            run = attach(run.run)
            shared.add(reader, Counter.ATTACHED, 1)
        before = run.rows("test.rows")
        n = check_rows(run.frame("test.rows"))
        assert seen <= before <= n[-1] + 1 <= run.rows("test.rows")
        seen = int(n[-1]) + 1
        shared.add(reader, Counter.ROWS, len(n))
        table = run.latest("test")
        check_table(table, last)
        shared.add(reader, Counter.TABLE_ROWS, table.height)


def read(name: str, shared: Shared, reader: int, kind: int) -> None:
    """Run a reader of one of four kinds."""
    run = attach(name)
    shared.add(reader, Counter.ATTACHED, 1)
    if kind == 0:
        follow(run, shared, reader)
    elif kind == 1:
        follow(run, shared, reader, from_start=True, max_rows=5_000)
    else:
        look(run, shared, reader, anew=kind == 3)


@contextmanager
def processes() -> Iterator[list[BaseProcess]]:
    """Yield a list for processes; kill those in it at the end."""
    running: list[BaseProcess] = []
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.join()


def stress(seconds: float) -> tuple[dict[str, int], int, int]:
    """Run all processes for `seconds`, and longer if the readers have not read enough.

    Returns the sums of the readers' counters, the number of kills, and the number of rows.
    """
    context = get_fork_context()
    shared = Shared(context.RawArray("Q", 1), context.RawArray("Q", MAX_READERS * len(Counter)))
    chance = random.Random(1)
    started = kills = 0

    with RunDirectory() as directory, processes() as running:
        directory.describe()
        names = DictionaryWriter(dictionary_path(directory.path, "test", "symbols"))
        names.add([f"S{i}" for i in range(SYMBOLS)])
        writer = context.Process(target=write, args=(directory.path, shared))
        writer.start()
        running.append(writer)
        head = frame_path(directory.path, "test.latest") / "head"
        until(head.exists)
        readers: list[tuple[int, BaseProcess]] = []

        def begin(kind: int) -> tuple[int, BaseProcess]:
            nonlocal started
            process = context.Process(target=read, args=(directory.run, shared, started, kind))
            process.start()
            running.append(process)
            started += 1
            return started - 1, process

        readers = [begin(i % 4) for i in range(READERS)]
        until(lambda: all(shared.of(Counter.ATTACHED)[:READERS]))
        rows = Head(frame_path(directory.path, "test.rows"), write=False)
        began = time.monotonic()
        while time.monotonic() < began + seconds or not is_enough(shared, kills, rows):
            assert started < MAX_READERS
            time.sleep(chance.uniform(0.1, 1.0))
            assert all(process.is_alive() for process in running[:1])
            assert all(process.is_alive() for _, process in readers), "a reader has failed"
            chosen = chance.randrange(READERS)
            reader, victim = readers[chosen]
            if not shared.of(Counter.ATTACHED)[reader] and chance.random() < 0.9:
                continue  # where a start takes long, few readers would ever read
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()
            running.remove(victim)
            kills += 1
            readers[chosen] = begin(chosen % 4)
        shared.over[0] = 1
        for _, process in [(-1, writer), *readers]:
            process.join(HANGING_S)
            assert process.exitcode == 0
        frame = Head(frame_path(directory.path, "test.rows"), write=False)
        assert frame.closed
        assert frame.first > 0, "the writer must drop the oldest chunks"
        assert Head(frame_path(directory.path, "test.latest"), write=False).end > 1
        left = attach(directory.run).frame("test.rows")
        assert check_rows(left)[-1] == frame.rows - 1
        followers = [reader for reader, _ in readers if shared.of(Counter.FOLLOWED)[reader]]
        assert followers
        assert {shared.of(Counter.NEXT)[reader] for reader in followers} == {frame.rows}
        return shared.sums(), kills, frame.rows


def is_enough(shared: Shared, kills: int, frame: Head) -> bool:
    """Return whether there were enough rows, reads and kills to reveal a fault."""
    sums = shared.sums()
    return (
        kills >= 5
        and frame.first > 0
        and frame.rows > 50_000
        and sums["ROWS"] > 200_000
        and sums["FOLLOWED"] > 20_000
        and sums["TABLE_ROWS"] > 20_000
        and sums["ATTACHED"] > READERS + kills
    )


def assert_thorough(seconds: float) -> None:
    sums, kills, rows = stress(seconds)
    print(f"{rows} rows written, {kills} readers killed, {sums}")


def test_each_value_that_readers_see_is_the_right_one() -> None:
    assert_thorough(3)


@pytest.mark.slow
def test_each_value_that_readers_see_is_the_right_one_for_a_minute() -> None:
    assert_thorough(60)
