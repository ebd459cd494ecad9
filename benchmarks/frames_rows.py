"""Stocks trades and quotes ready to be committed: the seeded simulator's messages, decoded by us."""

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
"""The engine's own."""
ROOMY = Limits(retention=8_000_000_000, chunk=16_000_000)
"""For as many rows as are asked for."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Columns of one channel, and the texts behind their codes by dictionary."""

    channel: str
    rows: Rows
    texts: dict[str, list[str]]

    def batches(self, size: int) -> list[Rows]:
        """The rows in batches of `size`."""
        count = len(self.rows[0].values)
        return [part(self.rows, start, start + size) for start in range(0, count, size)]


def part(rows: Sequence[ColumnData], start: int, stop: int) -> Rows:
    """Some of the rows, as views."""
    return [ColumnData(c.values[start:stop], None if c.mask is None else c.mask[start:stop]) for c in rows]


def ready(channel: str, count: int) -> Ready:
    """`count` rows of stocks `channel`."""
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
    for name, texts in decoder.decode(payloads).new.items():  # once to learn the texts
        codes[name].update((text, code) for code, text in enumerate(texts))
    columns = decoder.decode(payloads).columns[channel]
    return Ready(channel, list(columns), {name: list(texts) for name, texts in codes.items()})


@contextlib.contextmanager
def live(rows: Ready, limits: Limits) -> Iterator[tuple[RunDirectory, FrameWriter]]:
    """A run of this process with an empty frame for `rows`, to which others can attach."""
    with RunDirectory() as run:
        run.describe()
        for name, texts in rows.texts.items():
            DictionaryWriter(dictionary_path(run.path, "stocks", name)).add(texts)
        columns = STOCKS.by_name[rows.channel].columns
        yield run, FrameWriter(frame_path(run.path, f"stocks.{rows.channel}"), columns, limits)


def fill(writer: FrameWriter, rows: Ready, count: int) -> None:
    """Append `count` rows, the same ones again and again, in batches of the engine's usual size."""
    batches = itertools.cycle(rows.batches(4_000))
    while writer.rows < count:
        batch = next(batches)
        writer.append(part(batch, 0, count - writer.rows))


def stamped(rows: Sequence[ColumnData], nanoseconds: int) -> Rows:
    """The same rows, received at a given time."""
    stamps = np.full(len(rows[0].values), nanoseconds, np.int64)
    return [*rows[:-1], ColumnData(stamps)]  # `recv_ts` is the last column of every frame
