"""Stocks trades and quotes ready for commit: messages of the seeded simulator, decoded."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.rundir import RunDirectory, dictionary_path, frame_path
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind

STOCKS = STREAMS["stocks"]
TYPES = {"trades": "t", "quotes": "q"}
Rows = list[ColumnData]

DEFAULT = Limits(retention=256_000_000, chunk=16_000_000)
"""The engine's default."""
ROOMY = Limits(retention=8_000_000_000, chunk=16_000_000)
"""Enough for all rows of the benchmarks."""


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Columns of one channel, and the texts of their codes by dictionary."""

    channel: str
    rows: Rows
    texts: dict[str, list[str]]

    def batches(self, size: int) -> list[Rows]:
        """Return the rows in batches of `size`."""
        count = len(self.rows[0].values)
        return [slice_rows(self.rows, start, start + size) for start in range(0, count, size)]


def slice_rows(rows: Sequence[ColumnData], start: int, stop: int) -> Rows:
    """Return a range of the rows, as views."""
    return [ColumnData(c.values[start:stop], None if c.mask is None else c.mask[start:stop]) for c in rows]


def prepare_rows(channel: str, count: int) -> PreparedRows:
    """Return `count` rows of a channel of stocks."""
    from mdstream.simulator.encode import ENCODINGS
    from mdstream.simulator.traffic import generate
    from workers.decoding.decoder import Decoder
    from workers.decoding.payloads import Payloads

    form, kind = ENCODINGS["json"], PayloadKind.JSON
    messages = generate("stocks", 1, {channel: list(STOCKS.symbols)})
    wanted = itertools.islice((m for m in messages if m["T"] == TYPES[channel]), count)
    single = [form.message(m) for m in wanted]
    payloads = Payloads.of([(form.payload(single[i : i + 20]), kind, i) for i in range(0, count, 20)])
    codes: dict[str, dict[str, int]] = {}
    decoder = Decoder(STOCKS, lambda name: codes.setdefault(name, {}), kernels=False)
    for name, texts in decoder.decode(payloads).new.items():  # the first call learns the texts
        codes[name].update((text, code) for code, text in enumerate(texts))
    columns = decoder.decode(payloads).columns[channel]
    return PreparedRows(channel, list(columns), {name: list(texts) for name, texts in codes.items()})


@contextlib.contextmanager
def open_frame(rows: PreparedRows, limits: Limits) -> Iterator[tuple[RunDirectory, FrameWriter]]:
    """Yield a run with an empty frame for `rows`, to which other processes can attach."""
    with RunDirectory() as run:
        run.describe()
        for name, texts in rows.texts.items():
            DictionaryWriter(dictionary_path(run.path, "stocks", name)).add(texts)
        columns = STOCKS.by_name[rows.channel].columns
        yield run, FrameWriter(frame_path(run.path, f"stocks.{rows.channel}"), columns, limits)


def fill(writer: FrameWriter, rows: PreparedRows, count: int) -> None:
    """Append `count` rows, repeating `rows`, in batches of the engine's usual size."""
    batches = itertools.cycle(rows.batches(4_000))
    while writer.rows < count:
        batch = next(batches)
        writer.append(slice_rows(batch, 0, count - writer.rows))


def stamp(rows: Sequence[ColumnData], nanoseconds: int) -> Rows:
    """Return the rows with `nanoseconds` as their receive time."""
    stamps = np.full(len(rows[0].values), nanoseconds, np.int64)
    return [*rows[:-1], ColumnData(stamps)]  # `recv_ts` is the last column of every frame
