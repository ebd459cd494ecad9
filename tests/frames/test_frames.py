"""Frames: one writer writes them, and independent readers read them."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.errors import NoSpaceError
from mdstream.frames.chunk import Chunk
from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.head import Head
from mdstream.frames.rundir import RunDirectory, dictionary_path, frame_path
from mdstream.frames.share import Share
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.reading.attach import attach
from mdstream.reading.reader import FrameReader
from mdstream.reading.tail import Tail
from mdstream.streams.spec import Column, Kind
from tests.fuzzing import examples
from tests.running import HANGING_S

COLUMNS = (
    Column("symbol", Kind.SYMBOL, "S", required=True, dictionary="symbols"),
    Column("ts", Kind.TIME, "t", required=True),
    Column("price", Kind.FLOAT, "p"),
    Column("flag", Kind.BOOL, "r", default=False),
    Column("text", Kind.TEXT, "x"),
    Column("symbols", Kind.SYMBOLS, "s", dictionary="symbols"),
)
ROOMY = Limits(retention=64_000_000, chunk=4_000_000)
SYMBOLS = [f"S{i}" for i in range(20)]

Row = tuple[int, int, float | None, bool, str | None, list[int] | None]


@pytest.fixture
def run() -> Iterator[RunDirectory]:
    with RunDirectory() as directory:
        directory.describe()
        DictionaryWriter(dictionary_path(directory.path, "test", "symbols")).add(SYMBOLS)
        yield directory


def encode_rows(rows: list[Row]) -> list[ColumnData]:
    def mask(values: list[Any]) -> Any:
        return np.array([v is not None for v in values]) if None in values else None

    symbol, ts, price, flag, text, symbols = (list(c) for c in zip(*rows, strict=True))
    encoded = [(t or "").encode() for t in text]
    return [
        ColumnData(np.array(symbol, np.uint32)),
        ColumnData(np.array(ts, np.int64)),
        ColumnData(np.array([p or 0.0 for p in price]), mask(price)),
        ColumnData(np.array(flag, np.bool_)),
        ColumnData(
            np.cumsum([len(t) for t in encoded], dtype=np.int64),
            mask(text),
            np.frombuffer(b"".join(encoded), np.uint8),
        ),
        ColumnData(
            np.cumsum([len(s or ()) for s in symbols], dtype=np.int64),
            mask(symbols),
            np.array([c for s in symbols for c in s or ()], np.uint32),
        ),
    ]


def read_rows(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return frame.with_columns(pl.col("symbol").cast(pl.String), pl.col("ts").to_physical()).rows()


def decode_rows(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [
        (SYMBOLS[s], t, p, f, x, None if y is None else [SYMBOLS[c] for c in y])
        for s, t, p, f, x, y in rows
    ]


CODES = st.integers(0, len(SYMBOLS) - 1)
ROW = st.tuples(
    CODES,
    st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(allow_nan=False, width=64),
    st.booleans(),
    st.none() | st.text(max_size=30),
    st.none() | st.lists(CODES, max_size=5),
)


@given(st.lists(st.lists(ROW, min_size=1, max_size=60), min_size=1, max_size=8))
@settings(max_examples=examples(60), deadline=None)
def test_readers_see_every_row_as_it_was_written(batches: list[list[Row]]) -> None:
    with RunDirectory() as directory:
        directory.describe()
        DictionaryWriter(dictionary_path(directory.path, "test", "symbols")).add(SYMBOLS)
        writer = FrameWriter(frame_path(directory.path, "test.rows"), COLUMNS, ROOMY)
        early = attach(directory.run)
        tail = early.tail("test.rows")
        followed: list[tuple[Any, ...]] = []
        written: list[Row] = []
        for batch in batches:
            writer.append(encode_rows(batch))
            written += batch
            assert read_rows(early.frame("test.rows")) == decode_rows(written)
            new = tail.poll()
            assert new is not None
            followed += read_rows(new)
        assert followed == decode_rows(written)
        writer.close()
        assert read_rows(attach(directory.run).frame("test.rows")) == decode_rows(written)


def make_rows(start: int, count: int) -> list[ColumnData]:
    return encode_rows(
        [
            (i % 20, i, i / 2 if i % 3 else None, i % 2 == 0, f"t{i}", [i % 20])
            for i in range(start, start + count)
        ]
    )


def test_rows_cross_chunks_without_a_gap(run: RunDirectory) -> None:
    writer = FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, Limits(64_000_000, 200_000))
    for start in range(0, 30_000, 1_000):
        writer.append(make_rows(start, 1_000))
    frame = attach(run.run).frame("test.rows")
    assert writer.head.end > 5, "the rows must fill several chunks"
    assert frame["ts"].to_physical().to_list() == list(range(30_000))
    assert frame["text"].to_list() == [f"t{i}" for i in range(30_000)]
    assert frame["price"].null_count() == 10_000


def test_numbers_are_the_shared_memory_itself(run: RunDirectory) -> None:
    writer = FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, ROOMY)
    writer.append(make_rows(0, 100))
    frame = attach(run.run).frame("test.rows")
    assert frame["price"].null_count() == 34
    path = writer.head.chunk_path(0)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [tuple(int(x, 16) for x in fields[0].split("-")) for fields in maps if fields[-1] == str(path)]
    for name in ("symbol", "ts", "price"):
        address = frame[name].to_physical().to_arrow().buffers()[1].address
        assert any(low <= address < high for low, high in ranges), f"{name} is a copy"


def test_a_chunk_opens_with_stock_pyarrow_sealed_or_not(run: RunDirectory) -> None:
    writer = FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, Limits(64_000_000, 200_000))
    writer.append(make_rows(0, 2_500))

    def batch(number: int) -> pa.RecordBatch:
        return pa.ipc.open_file(pa.memory_map(str(writer.head.chunk_path(number)))).get_batch(0)

    sealed = batch(0)
    sealed.validate(full=True)
    assert sealed.column("ts").cast(pa.int64()).to_pylist() == list(range(sealed.num_rows))
    assert sealed.column("price").null_count == -(-sealed.num_rows // 3)
    start = writer.head.entry(writer.head.end - 1).start_row
    live = batch(writer.head.end - 1).slice(0, writer.rows - start)
    assert live.column("ts").cast(pa.int64()).to_pylist() == list(range(start, 2_500))
    assert live.column("text").to_pylist() == [f"t{i}" for i in range(start, 2_500)]
    writer.close()
    last = batch(writer.head.end - 1)
    last.validate(full=True)
    assert last.num_rows == 2_500 - start
    assert last.column("price").null_count == sum(i % 3 == 0 for i in range(start, 2_500))


def test_the_oldest_chunk_goes_and_a_slow_tail_is_reported(run: RunDirectory) -> None:
    writer = FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, Limits(400_000, 100_000))
    attachment = attach(run.run)
    writer.append(make_rows(0, 10))
    tail = attachment.tail("test.rows", from_start=True)
    held = attachment.frame("test.rows")
    for start in range(10, 20_010, 1_000):
        writer.append(make_rows(start, 1_000))
    folder = frame_path(run.path, "test.rows")
    assert sum(path.stat().st_size for path in folder.glob("*.arrow")) <= 400_000
    frame = attachment.frame("test.rows")
    assert 0 < frame.height < 20_010
    assert frame["ts"].to_physical().to_list() == list(range(20_010 - frame.height, 20_010))
    new = tail.poll()
    assert new is not None
    assert tail.missed == 20_010 - new.height
    assert writer.head.first_row == tail.missed
    assert held["ts"].to_physical().to_list() == list(range(10)), "a reader keeps the rows that it has read"


def test_frames_of_a_stream_share_what_it_may_take(run: RunDirectory) -> None:
    share = Share(500_000)
    large, small = (
        FrameWriter(frame_path(run.path, f"test.{name}"), COLUMNS, ROOMY, share)
        for name in ("large", "small")
    )
    for start in range(0, 20_000, 1_000):
        large.append(make_rows(start, 1_000))
    assert large.bytes <= 500_000
    assert large.head.first_row > 0
    kept = large.rows - large.head.first_row
    for start in range(0, 3_000, 100):
        small.append(make_rows(start, 100))
    assert large.bytes + small.bytes <= 500_000
    assert large.rows - large.head.first_row < kept, "the share must evict chunks of the large frame"
    frame = attach(run.run).frame("test.large")
    end = large.rows
    assert frame["ts"].to_physical().to_list() == list(range(end - frame.height, end))
    assert attach(run.run).frame("test.small")["ts"].to_physical()[-1] == 2_999


def test_a_batch_that_found_no_room_is_appended_once_there_is(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = frame_path(run.path, "test.rows")
    writer = FrameWriter(folder, COLUMNS, Limits(64_000_000, 200_000))
    writer.append(make_rows(0, 100), 1)
    create = Chunk.create

    def full(path: Path, *_: Any) -> None:
        raise NoSpaceError(str(path), 1, 0)

    for sequence in range(2, 5):
        first = writer.rows
        monkeypatch.setattr(Chunk, "create", staticmethod(full))
        for _ in range(3):
            with pytest.raises(NoSpaceError):
                writer.append(make_rows(first, 5_000), sequence)
            assert writer.rows == first, "no row of the failed batch is published"
            frame = attach(run.run).frame("test.rows")
            assert frame["ts"].to_physical().to_list() == list(range(first - frame.height, first))
        monkeypatch.setattr(Chunk, "create", staticmethod(create))
        writer.append(make_rows(first, 5_000), sequence)
    writer.append(make_rows(0, 5_000), 4)  # the frame has this batch already
    writer.close()
    frame = attach(run.run).frame("test.rows")
    kept = range(15_100 - frame.height, 15_100)  # the writer evicted old chunks
    assert frame["ts"].to_physical().to_list() == list(kept)
    assert frame["text"].to_list() == [f"t{i}" for i in kept]
    for path in folder.glob("*.arrow"):
        pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).validate(full=True)
    lengths = [
        pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).num_rows
        for path in sorted(folder.glob("*.arrow"))
    ]
    assert sum(lengths) == len(kept) >= 5_000, "no file contains rows of the failed attempts"


def test_a_batch_that_found_room_for_some_chunks_only_is_appended_once_there_is(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, Limits(64_000_000, 50_000))
    writer.append(make_rows(0, 100), 1)
    create, made = Chunk.create, 0

    def scarce(path: Path, *rest: Any) -> None:
        nonlocal made
        if made == 2:
            raise NoSpaceError(str(path), 1, 0)
        made += 1
        create(path, *rest)

    monkeypatch.setattr(Chunk, "create", staticmethod(scarce))
    with pytest.raises(NoSpaceError):
        writer.append(make_rows(100, 5_000), 2)
    assert made == 2
    assert writer.rows == 100
    monkeypatch.setattr(Chunk, "create", staticmethod(create))
    writer.append(make_rows(100, 5_000), 2)
    frame = attach(run.run).frame("test.rows")
    kept = range(5_100 - frame.height, 5_100)  # the writer evicted old chunks
    assert frame["ts"].to_physical().to_list() == list(kept)
    assert frame["text"].to_list() == [f"t{i}" for i in kept]


def test_where_there_is_room_for_a_small_chunk_only_it_is_small(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Chunk.create

    def cramped(path: Path, columns: Any, rows: int, heaps: Any) -> None:
        if rows > 100:
            raise NoSpaceError(str(path), rows, 0)
        create(path, columns, rows, heaps)

    monkeypatch.setattr(Chunk, "create", staticmethod(cramped))
    writer = FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, ROOMY)
    writer.append(make_rows(0, 1_000))
    assert attach(run.run).frame("test.rows")["ts"].to_physical()[-1] == 999


def test_a_text_larger_than_a_chunk_gets_one_of_its_own(run: RunDirectory) -> None:
    writer = FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, Limits(64_000_000, 100_000))
    big = "x" * 1_000_000
    writer.append(
        encode_rows(
            [(0, 0, 1.0, True, "small", []), (0, 1, 1.0, True, big, []), (0, 2, 1.0, True, "s", [])]
        )
    )
    assert attach(run.run).frame("test.rows")["text"].to_list() == ["small", big, "s"]
    writer.append(make_rows(3, 5_000))
    large = [p for p in writer.head.folder.glob("*.arrow") if p.stat().st_size > 400_000]
    assert len(large) == 1, "later chunks have the usual size"


def test_a_successor_goes_on_where_a_writer_stopped(run: RunDirectory) -> None:
    folder = frame_path(run.path, "test.rows")
    FrameWriter(folder, COLUMNS, ROOMY).append(make_rows(0, 777), 1)
    reader = attach(run.run)
    assert reader.rows("test.rows") == 777
    successor = FrameWriter(folder, COLUMNS, ROOMY)
    successor.append(make_rows(0, 777), 1)  # the frame has this batch already
    assert successor.rows == 777
    successor.append(make_rows(777, 23), 2)
    assert reader.frame("test.rows")["ts"].to_physical().to_list() == list(range(800))
    assert reader.frame("test.rows")["text"].to_list() == [f"t{i}" for i in range(800)]


@pytest.mark.parametrize("stage", ["rows", "pending", "applied", "published"])
def test_a_commit_cut_short_at_any_step_happens_once(run: RunDirectory, stage: str) -> None:
    folder = frame_path(run.path, "test.rows")
    limits = Limits(64_000_000, 100_000)
    writer = FrameWriter(folder, COLUMNS, limits)
    writer.append(make_rows(0, 300), 1)
    head = writer.head
    stores = {"rows": (), "pending": (4,), "applied": (4, 5), "published": (4, 5, 1)}[stage]

    def publish_part(rows: int, sequence: int) -> None:
        for word in stores:
            head._words[word] = sequence if word == 5 else rows

    head.publish = publish_part  # type: ignore[method-assign]
    writer.append(make_rows(300, 2_000), 2)  # continues in new chunks
    successor = FrameWriter(folder, COLUMNS, limits)
    assert successor.rows == (2_300 if stage == "published" else 300)
    successor.append(make_rows(300, 2_000), 2)
    successor.append(make_rows(2_300, 50), 3)
    frame = attach(run.run).frame("test.rows")
    assert frame["ts"].to_physical().to_list() == list(range(2_350))
    assert frame["text"].to_list() == [f"t{i}" for i in range(2_350)]
    assert frame["price"].null_count() == sum(i % 3 == 0 for i in range(2_350))


@pytest.mark.parametrize("stores", range(len(COLUMNS) + 2))
def test_a_chunk_that_is_half_sealed_can_be_read_and_written(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, stores: int
) -> None:
    """A writer that is killed while it seals a chunk leaves it in this state."""
    folder = frame_path(run.path, "test.rows")
    writer = FrameWriter(folder, COLUMNS, ROOMY)
    writer.append(make_rows(1, 1), 1)
    pack, done = struct.pack_into, 0

    def killed(*arguments: Any) -> None:
        nonlocal done
        if done == stores:
            raise KeyboardInterrupt
        done += 1
        pack(*arguments)

    monkeypatch.setattr(struct, "pack_into", killed)
    with contextlib.suppress(KeyboardInterrupt):
        writer.close()
    monkeypatch.setattr(struct, "pack_into", pack)
    assert attach(run.run).frame("test.rows")["text"].to_list() == ["t1"]
    successor = FrameWriter(folder, COLUMNS, ROOMY)
    successor.append(make_rows(2, 500), 2)  # the first rows with nulls
    frame = attach(run.run).frame("test.rows")
    assert frame["text"].to_list() == [f"t{i}" for i in range(1, 502)]
    assert frame["price"].null_count() == 167
    with pa.memory_map(str(successor.head.chunk_path(0))) as file:
        live = pa.ipc.open_file(file).get_batch(0).slice(0, successor.rows)
    assert live.column("price").null_count == 167
    assert live.column("text").to_pylist() == frame["text"].to_list()


def test_a_full_file_system_drops_old_chunks_first_and_then_is_a_clear_error(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    room = [0]
    real = os.posix_fallocate

    def fallocate(descriptor: int, offset: int, size: int) -> None:
        used = sum(p.stat().st_size for p in folder.glob("*.arrow"))
        if used + size > room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, offset, size)

    folder = frame_path(run.path, "test.rows")
    room[0] = 10_000_000
    writer = FrameWriter(folder, COLUMNS, Limits(64_000_000, 100_000))
    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    for start in range(0, 5_000, 500):
        writer.append(make_rows(start, 500))
    room[0] = 350_000
    for start in range(5_000, 10_000, 500):
        writer.append(make_rows(start, 500))
    assert writer.head.first_row > 0
    assert attach(run.run).frame("test.rows")["ts"].to_physical()[-1] == 9_999
    room[0] = 0
    before = writer.rows
    with pytest.raises(NoSpaceError, match="enlarge it"):
        for start in range(10_000, 20_000, 500):
            writer.append(make_rows(start, 500))
    assert before <= writer.rows < 20_000
    assert not list(folder.glob("*.new"))


def test_symbols_are_categoricals_that_compare_with_text(run: RunDirectory) -> None:
    writer = FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, ROOMY)
    writer.append(make_rows(0, 100))
    attachment = attach(run.run)
    frame = attachment.frame("test.rows")
    assert frame.filter(pl.col("symbol") == "S3").height == 5
    assert frame.filter(pl.col("symbol").is_in(["S3", "S4", "never seen"])).height == 10
    assert frame.group_by("symbol").len().height == 20
    # A query for an unknown text gave it a code in Polars. The frame's own next text comes after it.
    DictionaryWriter(dictionary_path(run.path, "test", "symbols")).add(["NEW"])
    writer.append(encode_rows([(20, 100, 1.0, False, "", [20])]))
    again = attachment.frame("test.rows")
    assert again["symbol"].cast(pl.String)[-1] == "NEW"
    assert again.filter(pl.col("symbol") == "S3").height == 5


def test_texts_that_a_program_looked_for_first_keep_their_own_codes(run: RunDirectory) -> None:
    folder = frame_path(run.path, "test.rows")
    writer = FrameWriter(folder, COLUMNS, ROOMY)
    writer.append(make_rows(0, 20))
    attachment = attach(run.run)
    frame = attachment.frame("test.rows")
    # The frame gets both texts later, in another order. Polars now has a code for each.
    assert not frame.filter(pl.col("symbol").is_in(["AAPL", "NVDA"])).height
    names = ["AAPL", "MSFT", "NVDA", "AMZN"]
    DictionaryWriter(dictionary_path(run.path, "test", "symbols")).add(names)
    writer.append(encode_rows([(20 + i, 20 + i, float(i), False, "", [0]) for i in range(4)]))
    again = attachment.frame("test.rows").tail(4)
    assert again["symbol"].cast(pl.String).to_list() == names
    assert again.filter(pl.col("symbol") == "NVDA")["price"].to_list() == [2.0]


def test_rows_before_and_after_a_program_named_a_text_go_together(run: RunDirectory) -> None:
    writer = FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, ROOMY)
    attachment = attach(run.run)
    tail = attachment.tail("test.rows")
    batches = []

    def append(rows: list[Row]) -> None:
        writer.append(encode_rows(rows))
        new = tail.poll()
        assert new is not None
        batches.append(new)

    append([(i, i, float(i), False, "", [i]) for i in range(20)])
    watched = pl.DataFrame({"symbol": ["S3", "NVDA", "TSLA"]})
    dtype = batches[0].schema["symbol"]
    watched = watched.with_columns(pl.col("symbol").cast(dtype))  # the frame does not have two of them yet
    writer_of = DictionaryWriter(dictionary_path(run.path, "test", "symbols"))
    for symbol in ("MSFT", "TSLA", "AMZN", "NVDA"):
        [code] = writer_of.add([symbol])
        append([(code, code, 1.0, False, "", [code]), (3, code, None, False, "", None)])
    everything = pl.concat(batches)
    assert everything.schema["symbol"] == dtype
    assert everything["symbol"].cast(pl.String).to_list()[20::2] == ["MSFT", "TSLA", "AMZN", "NVDA"]
    assert everything.equals(attachment.frame("test.rows"))
    found = everything.join(watched, on="symbol")["symbol"].cast(pl.String).value_counts()
    assert dict(found.iter_rows()) == {"S3": 5, "TSLA": 1, "NVDA": 1}
    assert batches[0].join(batches[-1], on="symbol").height == 1


def test_a_tail_follows_parts_that_begin_after_it(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tail, "_CHECK_S", 0.0)
    column = COLUMNS[1:2]

    def rows(first: int) -> list[ColumnData]:
        return [ColumnData(np.arange(first, first + 3, dtype=np.int64))]

    one = FrameWriter(frame_path(run.path, "test.batches@one"), column, ROOMY)
    one.append(rows(0))
    tail = attach(run.run).tail("test.batches")
    assert tail.poll() is None
    two = FrameWriter(frame_path(run.path, "test.batches@two"), column, ROOMY)
    two.append(rows(10))
    one.append(rows(20))
    new = tail.poll()
    assert new is not None
    assert sorted(new["ts"].to_physical()) == [10, 11, 12, 20, 21, 22]
    assert tail.missed == 0


def test_half_a_line_of_a_dictionary_is_taken_back(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = DictionaryWriter(dictionary_path(run.path, "test", "short"))
    writer.add(["A"])
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    with pytest.raises(NoSpaceError):
        writer.add(["BBBBBBBB", "C"])
    monkeypatch.setattr(os, "write", write)
    assert writer.add(["C", "BBBBBBBB", "A"]) == [1, 2, 0]


def test_no_room_for_a_new_frame_is_a_clear_error(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def write(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(NoSpaceError, match="enlarge it"):
        FrameWriter(frame_path(run.path, "test.more"), COLUMNS, ROOMY)


def test_an_empty_frame_has_its_columns(run: RunDirectory) -> None:
    FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, ROOMY)
    frame = attach(run.run).frame("test.rows")
    assert frame.height == 0
    assert frame.schema["ts"] == pl.Datetime("ns", "UTC")
    assert frame.schema["symbols"] == pl.List(pl.String)
    assert isinstance(frame.schema["symbol"], pl.Categorical)


def test_parts_of_a_frame_show_as_one_with_their_stream(run: RunDirectory) -> None:
    for stream in ("stocks", "news"):
        writer = FrameWriter(frame_path(run.path, f"test.batches@{stream}"), COLUMNS[1:2], ROOMY)
        writer.append([ColumnData(np.arange(3, dtype=np.int64))])
    attachment = attach(run.run)
    assert attachment.frames == ["test.batches"]
    frame = attachment.frame("test.batches")
    assert sorted(frame["stream"].cast(pl.String).to_list()) == ["news"] * 3 + ["stocks"] * 3
    assert attachment.rows("test.batches") == 6
    DictionaryWriter(dictionary_path(run.path, "test", "streams")).add(["news", "stocks"])
    named = pl.Series("stream", ["news"]).cast(attachment.frame("test.batches").schema["stream"])
    joined = frame.join(named.to_frame(), on="stream")
    assert joined.height == 3


def test_unknown_frames_are_distinguished_from_ended_runs(run: RunDirectory) -> None:
    FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, ROOMY)
    with pytest.raises(KeyError, match=r"no frame 'test.nothing' in run .*choose from test.rows"):
        attach(run.run).frame("test.nothing")


def test_a_reader_that_is_killed_disturbs_nothing(run: RunDirectory) -> None:
    writer = FrameWriter(frame_path(run.path, "test.rows"), COLUMNS, ROOMY)
    writer.append(make_rows(0, 1000))
    code = (
        "import mdstream, os, signal; r = mdstream.attach(); "
        "print(r.frame('test.rows').height, flush=True); "
        "t = r.tail('test.rows'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGING_S)
    assert (done.returncode, done.stdout) == (-9, "1000\n")
    writer.append(make_rows(1000, 1000))
    assert attach(run.run).frame("test.rows")["ts"].to_physical().to_list() == list(range(2000))


def test_a_head_without_rows_has_no_chunks(run: RunDirectory) -> None:
    folder = frame_path(run.path, "test.rows")
    FrameWriter(folder, COLUMNS, ROOMY)
    head = Head(folder, write=False)
    assert (head.rows, head.first, head.end, head.closed) == (0, 0, 0, False)
    assert FrameReader(folder).first_row == 0
    with pytest.raises(TypeError):
        head._words[1] = 5  # a reader cannot change the writer's memory
