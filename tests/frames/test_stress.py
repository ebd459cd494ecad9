"""One writer at full speed, ten readers that come, read, follow and are killed: each value they see is the right one."""

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
from tests.forking import forked
from tests.running import HANGING_S, until

Numbers = npt.NDArray[np.int64]

SYMBOL = Column("symbol", Kind.SYMBOL, "S", required=True, dictionary="symbols")
ROWS = (
    SYMBOL,
    Column("ts", Kind.TIME, required=True),  # the number of the row; all else follows from it
    Column("price", Kind.FLOAT),
    Column("flag", Kind.BOOL, default=False),
    Column("text", Kind.TEXT),
    Column("check", Kind.UINT, required=True),
)
LATEST = (
    SYMBOL,
    Column("ts", Kind.TIME),  # the number of the update; with the symbol it tells all else
    Column("price", Kind.FLOAT),
    Column("size", Kind.INT),
    Column("check", Kind.UINT),
    Column("version", Kind.UINT, required=True),
)
LIMITS = Limits(retention=1_500_000, chunk=32_000)
SYMBOLS = 3000
READERS = 10
LIVES = 400


class Word(IntEnum):
    """What a reader tells of itself, in shared memory, for it may be killed at any moment."""

    ROWS = 0
    """Rows of the frame that it has checked,"""
    FOLLOWED = auto()
    """those that came by a tail,"""
    MISSED = auto()
    """and what the tail says it missed."""
    NEXT = auto()
    """The row that the tail is at."""
    TABLE_ROWS = auto()
    ATTACHED = auto()


# -- the model


def mixed(numbers: Numbers, salt: Any = 0) -> npt.NDArray[np.uint64]:
    """A checksum of each number."""
    bits = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray(bits ^ (bits >> np.uint64(29)) ^ np.asarray(salt, np.uint64))


def written(start: int, count: int) -> list[ColumnData]:
    """Rows of the frame, as its writer gets them."""
    n = np.arange(start, start + count)
    texts = [b"" if i % 5 == 0 else b"%d" % i for i in n.tolist()]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return [
        ColumnData((n % SYMBOLS).astype(np.uint32)),
        ColumnData(n),
        ColumnData(n * 0.5, n % 3 != 0),
        ColumnData(n % 7 == 0),
        ColumnData(ends, n % 5 != 0, np.frombuffer(b"".join(texts), np.uint8)),
        ColumnData(mixed(n)),
    ]


def check_rows(frame: pl.DataFrame) -> Numbers:
    """Every value of rows that readers see; the numbers of the rows, which follow each other."""
    n: Numbers = frame["ts"].to_physical().to_numpy()
    assert (np.diff(n) == 1).all()
    wanted = pl.DataFrame({"n": n}).select(
        price=pl.when(pl.col("n") % 3 != 0).then(pl.col("n") * 0.5),
        flag=pl.col("n") % 7 == 0,
        text=pl.when(pl.col("n") % 5 != 0).then(pl.col("n").cast(pl.String)),
    )
    for name in wanted.columns:
        assert frame[name].equals(wanted[name], null_equal=True), name
    assert (frame["check"].to_numpy() == mixed(n)).all()
    assert (frame["symbol"].to_physical().to_numpy() == n % SYMBOLS).all()
    assert frame["symbol"].cast(pl.String).tail(3).to_list() == [f"S{i % SYMBOLS}" for i in n[-3:]]
    return n


def updated(turn: int, rows: Numbers) -> list[tuple[int, ColumnData]]:
    """What update `turn` writes into rows of the table."""
    n = np.full(len(rows), turn)
    there = n % 4 != 0
    size = ColumnData(n * 3, None if there.all() else there)
    return [(1, ColumnData(n)), (2, ColumnData(n / 2)), (3, size), (4, ColumnData(mixed(n, rows)))]


def check_table(frame: pl.DataFrame, last: Numbers) -> None:
    """All of a row is of one update, and of none before the `last` that was seen of it."""
    turn: Numbers = frame["ts"].to_physical().to_numpy()
    code = frame["symbol"].to_physical().to_numpy().astype(np.int64)
    assert (turn >= last[code]).all()
    last[code] = turn
    assert (frame["price"].to_numpy() == turn / 2).all()
    assert (frame["size"].is_null().to_numpy() == (turn % 4 == 0)).all()
    size = frame["size"].fill_null(0).to_numpy()
    assert (size == np.where(turn % 4 == 0, 0, turn * 3)).all()
    assert (frame["check"].to_numpy() == mixed(turn, code)).all()


# -- the processes


class Shared(NamedTuple):
    """What the processes share beside the run: whether it is over, and what each life of a reader tells."""

    over: Any
    words: Any

    def add(self, life: int, word: Word, value: int) -> None:
        self.words[life * len(Word) + word] += value

    def put(self, life: int, word: Word, value: int) -> None:
        self.words[life * len(Word) + word] = value

    def of(self, word: Word) -> list[int]:
        return list(self.words[word :: len(Word)])

    def sums(self) -> dict[str, int]:
        """What all lives told, added up."""
        return {word.name: sum(self.of(word)) for word in Word if word is not Word.NEXT}


def write(run: Path, shared: Shared) -> None:
    """The writer's life: a few rows, an update of the table, and so on."""
    chance = np.random.default_rng(1)
    frame = FrameWriter(frame_path(run, "test.rows"), ROWS, LIMITS)
    table = KeyedFrameWriter(frame_path(run, "test.latest"), LATEST, Share(1 << 40))
    turn = 0
    while not shared.over[0]:
        frame.append(written(frame.rows, int(chance.integers(1, 200))))
        turn += 1
        most = min(SYMBOLS, 50 + turn)  # so that the table grows now and then
        rows = chance.permutation(most)[: chance.integers(1, 300)]
        table.update(rows, updated(turn, rows), 1)
    frame.close()
    table.close()


def follow(run: Attachment, shared: Shared, life: int, **how: Any) -> None:
    """Rows as they come, until the writer has ended: none is missing but those that are counted."""
    chance = random.Random(life)
    tail = run.tail("test.rows", **how)
    [at] = tail._next.values()
    missed = 0
    for new in tail:
        n = check_rows(new)
        assert n[0] == at + tail.missed - missed
        at, missed = int(n[-1]) + 1, tail.missed
        shared.add(life, Word.FOLLOWED, len(n))
        shared.put(life, Word.MISSED, missed)
        shared.put(life, Word.NEXT, at)
        if how and chance.random() < 0.02:
            time.sleep(0.5)  # a reader that is late
    assert run.rows("test.rows") == at


def look(run: Attachment, shared: Shared, life: int, anew: bool) -> None:
    """The frame and the table as they stand, again and again; by the same attachment, or by a new one."""
    seen, last = 0, np.zeros(SYMBOLS, np.int64)
    while not shared.over[0]:
        if anew:
            run = attach(run.run)
            shared.add(life, Word.ATTACHED, 1)
        before = run.rows("test.rows")
        n = check_rows(run.frame("test.rows"))
        assert seen <= before <= n[-1] + 1 <= run.rows("test.rows")
        seen = int(n[-1]) + 1
        shared.add(life, Word.ROWS, len(n))
        table = run.latest("test")
        check_table(table, last)
        shared.add(life, Word.TABLE_ROWS, table.height)


def read(name: str, shared: Shared, life: int, kind: int) -> None:
    """A reader's life, of one of four kinds."""
    run = attach(name)
    shared.add(life, Word.ATTACHED, 1)
    if kind == 0:
        follow(run, shared, life)
    elif kind == 1:
        follow(run, shared, life, from_start=True, max_rows=5_000)
    else:
        look(run, shared, life, anew=kind == 3)


@contextmanager
def processes() -> Iterator[list[BaseProcess]]:
    """Processes that are gone in the end."""
    running: list[BaseProcess] = []
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.join()


def stress(seconds: float) -> tuple[dict[str, int], int, int]:
    """Let them all run for so long, and until enough was seen; what readers told, how many were killed, and
    the rows there were.
    """
    context = forked()
    shared = Shared(context.RawArray("Q", 1), context.RawArray("Q", LIVES * len(Word)))
    chance = random.Random(1)
    lives = kills = 0

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
            nonlocal lives
            process = context.Process(target=read, args=(directory.run, shared, lives, kind))
            process.start()
            running.append(process)
            lives += 1
            return lives - 1, process

        readers = [begin(i % 4) for i in range(READERS)]
        until(lambda: all(shared.of(Word.ATTACHED)[:READERS]))
        rows = Head(frame_path(directory.path, "test.rows"), write=False)
        began = time.monotonic()
        while time.monotonic() < began + seconds or not is_enough(shared, kills, rows):
            assert lives < LIVES
            time.sleep(chance.uniform(0.1, 1.0))
            assert all(process.is_alive() for process in running[:1])
            assert all(process.is_alive() for _, process in readers), "a reader has failed"
            chosen = chance.randrange(READERS)
            life, victim = readers[chosen]
            if not shared.of(Word.ATTACHED)[life] and chance.random() < 0.9:
                continue  # where starting takes long, few would ever come to read
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
        assert frame.first > 0, "the oldest chunks were meant to go"
        assert Head(frame_path(directory.path, "test.latest"), write=False).end > 1
        left = attach(directory.run).frame("test.rows")
        assert check_rows(left)[-1] == frame.rows - 1
        followers = [life for life, _ in readers if shared.of(Word.FOLLOWED)[life]]
        assert followers
        assert {shared.of(Word.NEXT)[life] for life in followers} == {frame.rows}
        return shared.sums(), kills, frame.rows


def is_enough(shared: Shared, kills: int, frame: Head) -> bool:
    """Whether so much was written, read and killed that a fault would have shown."""
    told = shared.sums()
    return (
        kills >= 5
        and frame.first > 0
        and frame.rows > 50_000
        and told["ROWS"] > 200_000
        and told["FOLLOWED"] > 20_000
        and told["TABLE_ROWS"] > 20_000
        and told["ATTACHED"] > READERS + kills
    )


def assert_thorough(seconds: float) -> None:
    told, kills, rows = stress(seconds)
    print(f"{rows} rows written, {kills} readers killed, {told}")


def test_each_value_that_readers_see_is_the_right_one() -> None:
    assert_thorough(3)


@pytest.mark.slow
def test_each_value_that_readers_see_is_the_right_one_for_a_minute() -> None:
    assert_thorough(60)
