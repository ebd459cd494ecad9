"""Tables: one row per symbol, updated in place. A reader sees each row as of one moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.errors import ConfigError
from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.keyed_frame import KeyedFrameWriter
from mdstream.frames.rundir import RunDirectory, dictionary_path, frame_path
from mdstream.frames.share import Share
from mdstream.handoff.columns import ColumnData
from mdstream.reading import keyed_frame_reader
from mdstream.reading.attach import Attachment, attach
from mdstream.streams.spec import Column, Kind
from tests.forking import get_fork_context
from tests.fuzzing import examples
from tests.running import HANGING_S

COLUMNS = (
    Column("symbol", Kind.SYMBOL, "S", required=True, dictionary="symbols"),
    Column("ts", Kind.TIME),
    Column("price", Kind.FLOAT),
    Column("size", Kind.INT),
    Column("check", Kind.INT),
    Column("version", Kind.UINT, required=True),
)
NAMES = [f"S{i}" for i in range(3000)]


@pytest.fixture
def run() -> Iterator[RunDirectory]:
    with RunDirectory() as directory:
        directory.describe()
        DictionaryWriter(dictionary_path(directory.path, "test", "symbols")).add(NAMES)
        yield directory


def make_writer(run: RunDirectory) -> KeyedFrameWriter:
    return KeyedFrameWriter(frame_path(run.path, "test.latest"), COLUMNS, Share(1 << 40))


def update(table: KeyedFrameWriter, rows: list[int], ts: list[int], price: list[float | None]) -> None:
    mask = np.array([p is not None for p in price])
    values = np.array([p or 0.0 for p in price])
    table.update(
        np.array(rows),
        [(1, ColumnData(np.array(ts, np.int64))), (2, ColumnData(values, None if mask.all() else mask))],
        (1, 1),
    )


def read_rows(run: Attachment) -> dict[str, tuple[Any, ...]]:
    frame = run.latest("test").with_columns(pl.col("symbol").cast(pl.String), pl.col("ts").to_physical())
    return {row[0]: row[1:] for row in frame.iter_rows()}


def test_rows_appear_with_what_they_have(run: RunDirectory) -> None:
    table, reader = make_writer(run), attach(run.run)
    assert reader.latest("test").columns == ["symbol", "ts", "price", "size", "check"]
    assert read_rows(reader) == {}
    update(table, [3, 1], [10, 11], [1.5, None])
    assert read_rows(reader) == {"S1": (11, None, None, None), "S3": (10, 1.5, None, None)}
    update(table, [1], [12], [2.5])
    assert read_rows(reader)["S1"] == (12, 2.5, None, None)
    assert reader.latest("test", symbols="S3")["price"].to_list() == [1.5]
    assert "test.latest" in reader.frames
    with pytest.raises(ConfigError, match="is a keyed frame"):
        reader.tail("test.latest")


def test_what_is_older_replaces_nothing(run: RunDirectory) -> None:
    table, reader = make_writer(run), attach(run.run)
    update(table, [0, 1], [10, 10], [1.0, 1.0])
    update(table, [0, 1, 2], [9, 10, 1], [2.0, 2.0, 2.0])
    assert {s: row[1] for s, row in read_rows(reader).items()} == {"S0": 1.0, "S1": 2.0, "S2": 2.0}


def test_a_table_grows_while_it_is_read(run: RunDirectory) -> None:
    table, reader = make_writer(run), attach(run.run)
    for code in (5, 300, 2999):
        update(table, [code], [code], [float(code)])
        assert read_rows(reader)[f"S{code}"] == (code, float(code), None, None)
    assert len(read_rows(reader)) == 3
    assert len(list(frame_path(run.path, "test.latest").glob("*.arrow"))) == 1


def test_a_successor_goes_on_with_the_table(run: RunDirectory) -> None:
    update(make_writer(run), [5, 7], [1, 1], [1.0, None])
    (frame_path(run.path, "test.latest") / "0000000009.arrow").write_bytes(b"half a chunk")
    table, reader = make_writer(run), attach(run.run)
    update(table, [7], [2], [2.0])
    assert {s: row[:2] for s, row in read_rows(reader).items()} == {"S5": (1, 1.0), "S7": (2, 2.0)}


def test_symbols_beyond_the_bound_are_counted(run: RunDirectory) -> None:
    table = make_writer(run)
    update(table, [1, 1 << 20], [1, 1], [1.0, 1.0])
    assert table.untracked == 1
    update(table, [1 << 20], [1], [1.0])
    assert table.untracked == 2
    assert list(read_rows(attach(run.run))) == ["S1"]


def test_a_row_that_its_writer_died_in_is_left_out_until_it_is_written_again(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed_frame_reader, "_TORN_TIMEOUT_S", 0.1)
    table, reader = make_writer(run), attach(run.run)
    update(table, [1, 2], [1, 1], [1.0, 1.0])
    assert table.chunk is not None
    table.chunk.views[-1].values[1] |= np.uint64(1)  # a killed writer leaves the row like this
    table.chunk.views[2].values[1] = 666.0
    assert list(read_rows(reader)) == ["S2"]
    update(make_writer(run), [1], [1], [5.0])
    assert read_rows(reader)["S1"][1] == 5.0


@given(
    st.lists(
        st.dictionaries(
            st.integers(0, 400), st.tuples(st.integers(0, 9), st.none() | st.integers(0, 99)), min_size=1
        ),
        max_size=12,
    )
)
@settings(max_examples=examples(60), deadline=None)
def test_a_table_equals_a_plain_dict(batches: list[dict[int, tuple[int, int | None]]]) -> None:
    model: dict[str, tuple[int, int | None]] = {}
    with RunDirectory() as run:
        run.describe()
        DictionaryWriter(dictionary_path(run.path, "test", "symbols")).add(NAMES)
        table, reader = make_writer(run), attach(run.run)
        for batch in batches:
            rows = list(batch)
            update(table, rows, [batch[r][0] for r in rows], [batch[r][1] for r in rows])
            for row, (ts, price) in batch.items():
                if ts >= model.get(f"S{row}", (0, None))[0]:
                    model[f"S{row}"] = ts, price
            assert {s: row[:2] for s, row in read_rows(reader).items()} == model


WRITE = """
import sys, numpy as np
from pathlib import Path
from mdstream.frames.share import Share
from mdstream.frames.keyed_frame import KeyedFrameWriter
from mdstream.handoff.columns import ColumnData
from tests.frames.test_keyed_frame import COLUMNS
table = KeyedFrameWriter(Path(sys.argv[1]), COLUMNS, Share(1 << 40))
random = np.random.default_rng(1)
for turn in range(1, 1 << 40):
    rows = random.permutation(3000)[: random.integers(1, 300)]
    turns = np.full(len(rows), turn)
    table.update(rows, [(1, ColumnData(turns)), (2, ColumnData(turns / 2)), (3, ColumnData(turns * 3)),
                        (4, ColumnData(turns * 7 + rows))], 1)
"""


def check(frame: pl.DataFrame) -> None:
    turn = frame["ts"].to_physical().to_numpy()
    code = frame["symbol"].cast(pl.String).str.slice(1).cast(pl.Int64).to_numpy()
    assert (frame["price"].to_numpy() == turn / 2).all()
    assert (frame["size"].to_numpy() == turn * 3).all()
    assert (frame["check"].to_numpy() == turn * 7 + code).all()


def read_for(name: str, seconds: float) -> None:
    """Read the table for `seconds`: every row is complete, and never older than at the last read."""
    reader = attach(name)
    end, last = time.monotonic() + seconds, np.zeros(3000, np.int64)
    reads = 0
    while time.monotonic() < end or reads < 10:
        frame = reader.latest("test")
        check(frame)
        code = frame["symbol"].to_physical().to_numpy()
        turn = frame["ts"].to_physical().to_numpy()
        assert (turn >= last[code]).all()
        last[code] = turn
        reads += 1


def test_no_reader_ever_sees_half_a_row(run: RunDirectory) -> None:
    folder = frame_path(run.path, "test.latest")
    context = get_fork_context()
    for _ in range(3):  # each writer is killed, and the next one continues
        writer = subprocess.Popen([sys.executable, "-c", WRITE, str(folder)])
        try:
            while not (folder / "head").exists():
                time.sleep(0.01)
            readers = [context.Process(target=read_for, args=(run.run, 1.5)) for _ in range(2)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join(HANGING_S)
                assert reader.exitcode == 0
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
    check(attach(run.run).latest("test"))
