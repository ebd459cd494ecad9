"""The direct path of one stream: usual batches go from their slab to the ends of frames in one call.

Runs in the feed, although it is in workers/, because it uses compiled kernels. It reads the layouts and
texts that the usual way (`workers.job`) has learned in this process, and learns nothing itself. After each
batch that took the usual way, it looks up again where all arrays and chunks are (`_bind`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.errors import NoSpaceError
from mdstream.frames.chunk import Chunk
from mdstream.frames.direct_path import HalfDoneError, Targets
from mdstream.frames.head import Head
from mdstream.handoff.columns import PARTIAL
from mdstream.handoff.slab import Slab
from mdstream.streams.books import book_channel
from mdstream.streams.spec import Kind, PayloadKind, StreamSpec
from mdstream.system.clock import Moment
from workers import job
from workers.aggregation.bars import Bars
from workers.aggregation.interval_bars import EVERY, KEPT
from workers.decoding.kernel_decoder import KernelDecoder
from workers.decoding.layouts import Table, tables_of
from workers.kernels import book, direct, direct_bars, direct_count
from workers.kernels import columns as plans
from workers.kernels import direct_layout as layout
from workers.kernels.bar_table import BAR, ROW

log = logging.getLogger(__name__)

_KERNELS = {PayloadKind.JSON: direct.commit_json, PayloadKind.MSGPACK: direct.commit_msgpack}

_SERIES = {
    "bars": BAR,
    "bar_slots": np.int32,
    "changed_bars": np.int32,
    "gaps": np.int64,
    "bar_heads": np.int64,
    "bar_rows": ROW,
}
_PATIENCE = 3
"""Unusual batches in a row after which others are left to the usual way without a look."""
_MOST_LEFT = 32
"""Most batches in a row that are left so."""

_TRADE = ("symbol", "ts", "price", "size", "recv_ts", "conditions", "tape")
_QUOTE = ("symbol", "ts", "bid_price", "ask_price", "recv_ts")


class Direct:
    """The `DirectPath` of one stream."""

    # The mutable state: whether the book is up to date, and its kernel; the arrays that it names; whether
    # the kernels have failed. Kernels write the book and the arrays of `_own`.

    def __init__(self, run: Path, spec: StreamSpec, targets: Targets, kernels: bool) -> None:
        self._spec = spec
        self._targets = targets
        self._context = job.context_of(str(run), spec.name, kernels)
        self._book: npt.NDArray[np.int64] = np.zeros(book.WORDS, np.int64)
        self._words = memoryview(self._book)  # type: ignore[arg-type]
        self._own: dict[str, Any] = {}
        self._bound: dict[str, Any] = {}
        self._decoder: KernelDecoder | None = None
        self._tables: list[Table] = []
        self._chunks: dict[str, Chunk | None] = {}
        self._commit: Any = None
        self._has_failed = False
        self._refused = self._left = 0
        self._partials = np.zeros(2 * layout.MOST_ROWS + layout.MOST_PAYLOADS, PARTIAL)
        self._slab_words = book.ARRAYS["buffer"][0]
        self._slab: Slab | None = None
        self._kind: PayloadKind | None = None
        self._book[book.PID] = os.getpid()

    def commit(self, slab: Slab, sequence: int, submitted: Moment) -> int | None:
        if self._has_failed or not 0 < slab.count <= layout.MOST_PAYLOADS or self._gives_up():
            return None
        words = self._words
        if self._commit is None and not self._can_bind():
            return None
        if slab is not self._slab:
            self._bind_slab(slab)
        words[book.PAYLOADS], words[book.SEQUENCE], words[book.ALONE] = slab.count, sequence, 0
        words[book.TO_WALL] = submitted.wall - submitted.monotonic
        words[book.SUBMITTED] = submitted.wall
        try:
            outcome = self._commit(self._book, self._partials, b"")
        except Exception:
            self._fail()
            return None
        self._note(outcome != direct.IRREGULAR)
        if outcome == direct.IRREGULAR:
            return None
        if outcome == direct.BARS:
            self._finish_bars(sequence)
        return words[book.CPU]

    def commit_alone(
        self, slab: Slab, sequence: int, payload: bytes, kind: PayloadKind, recv_ns: int
    ) -> int | None:
        if self._has_failed or not payload or self._gives_up():
            return None
        words = self._words
        if self._commit is None and not self._can_bind():
            return None
        if kind is not self._kind:
            return None
        if slab is not self._slab:
            self._bind_slab(slab)
        words[book.PAYLOADS], words[book.SEQUENCE], words[book.ALONE] = 1, sequence, recv_ns
        try:
            outcome = self._commit(self._book, self._partials, payload)
        except Exception as error:
            self._fail()
            raise HalfDoneError from error
        if outcome == direct.BARS:
            try:
                self._finish_bars(sequence)
            except NoSpaceError as error:
                raise HalfDoneError from error
        self._note(outcome != direct.IRREGULAR)
        return words[book.CPU] if outcome != direct.IRREGULAR else None

    def _can_bind(self) -> bool:
        """Bring the book up to date; return False if there is nothing to decode with, or that fails."""
        try:
            return self._bind()
        except Exception:
            self._fail()
            return False

    def _fail(self) -> None:
        """Do without the direct path from now on: an error in our code must not lose a batch."""
        log.exception("the direct path failed; this stream does without it")
        self._has_failed = True

    def _finish_bars(self, sequence: int) -> None:
        """Have the builder finish the bars of the batch, then count it."""
        partials = self._partials[: self._words[book.PARTIALS]]
        firsts = self._words[book.JOINED : book.JOINED + 2].tolist()
        trades = self._words[book.TRADES]
        self._targets.finish_bars(sequence, partials, firsts, int(self._own["rows"][trades]))
        direct_count.count(self._book)
        if any(first < len(partials) for first in firsts):
            self.forget()  # the builder may have moved its bars

    def forget(self) -> None:
        self._commit = None

    def _gives_up(self) -> bool:
        """Return whether to leave a batch to the usual way at once: many before it were unusual."""
        self._left -= 1
        return self._left >= 0

    def _note(self, is_usual: bool) -> None:
        """Note whether a batch was usual. After some that were not, leave more and more without a look."""
        self._refused = 0 if is_usual else self._refused + 1
        self._left = (
            min(1 << max(0, self._refused - _PATIENCE), _MOST_LEFT) if self._refused >= _PATIENCE else 0
        )

    # -- the book

    def _bind(self) -> bool:
        """Bring the book up to date; return False if there is nothing to decode with yet."""
        found = self._context.stream_decoder()
        if found is None:
            return False
        kind, decoder = found
        self._context.refresh()
        if decoder is not self._decoder:
            self._bind_decoder(decoder)
        self._write(decoder.arrays())
        self._bind_frames()
        self._bind_latest()
        self._bind_series()
        self._book[book.KNOWN], self._book[book.ROOM] = decoder.known_layouts, decoder.room
        self._kind, self._commit = kind, _KERNELS[kind]
        return True

    def _bind_slab(self, slab: Slab) -> None:
        """Write where the slab is."""
        self._slab, words = slab, self._words
        words[self._slab_words], words[self._slab_words + 1] = slab.address, len(slab.view)
        words[book.DATA] = slab.data_offset

    def _bind_decoder(self, decoder: KernelDecoder) -> None:
        """Write what stays where it is as long as the decoder does."""
        self._decoder, self._tables = decoder, decoder.tables
        self._own = self._make_arrays()
        self._own["plans"][:] = np.concatenate(decoder.plans).reshape(-1)
        self._chunks = {}
        self._bind_bars()
        self._bind_counters()
        self._write(self._own)
        self._write(
            {
                "latency": self._targets.latency,
                "delay": self._targets.feed_delay,
                "log": self._targets.log.reshape(-1),
                "logged": self._targets.logged,
                "intervals": self._make_intervals(),
            }
        )

    def _write(self, arrays: Mapping[str, Any]) -> None:
        """Write the addresses of arrays that are not those in the book, and keep the arrays alive."""
        for name, array in arrays.items():
            if self._bound.get(name) is array:
                continue
            word, item = book.ARRAYS[name]
            assert array.dtype in (item, np.bool_), name
            assert array.flags.c_contiguous, name
            self._bound[name] = array
            self._words[word], self._words[word + 1] = array.ctypes.data, array.size

    def _make_arrays(self) -> dict[str, Any]:
        """Make the arrays that only the direct path uses."""
        columns = sum(len(table.channel.columns) for table in self._tables)
        widest = max(len(table.channel.columns) for table in self._tables)
        most, payloads, channels = layout.MOST_ROWS, layout.MOST_PAYLOADS, len(self._tables)
        events = 2 * most + payloads
        lengths = {
            **dict.fromkeys(("offsets", "lengths", "received", "verdicts", "messages", "ticks"), payloads),
            **dict.fromkeys(("rows", "before"), channels),
            "at": 16,
            "clock": 2,
            "channels": channels * layout.CHANNEL_WIDTH,
            "columns": columns * layout.COLUMN_WIDTH,
            "plans": columns * plans.PLAN_WIDTH,
            "counts": columns * plans.COUNTS_WIDTH,
            "targets": columns * plans.TARGETS_WIDTH,
            "scratch": columns * plans.SCRATCH_ARRAYS * most,
            **dict.fromkeys(("leftover", "numbers"), widest * most),
            **dict.fromkeys(("symbols", "times", "prices", "volumes", "kinds", "receipts"), events),
            **dict.fromkeys(("places", "whose"), 8 * most),
            "newest": most,
            "trade": len(_TRADE) + 1,
            "quote": len(_TRADE) + 1,
        }
        return {name: np.zeros(length, book.ARRAYS[name][1]) for name, length in lengths.items()}

    def _bind_frames(self) -> None:
        """Write where the rows of each channel go."""
        channels = self._own["channels"].reshape(-1, layout.CHANNEL_WIDTH)
        columns = self._own["columns"].reshape(-1, layout.COLUMN_WIDTH)
        books = book_channel(self._spec)
        for number, table in enumerate(self._tables):
            channel = table.channel
            frame = self._targets.frames.get(channel.name)  # None for a channel of history alone
            chunk, which, at = frame.end_of_rows() if frame is not None else (None, 0, 0)
            if channel.name in self._chunks and self._chunks[channel.name] is chunk:
                if chunk is not None:
                    channels[number, layout.AT], channels[number, layout.LEFT] = at, chunk.rows - at
                continue
            self._chunks[channel.name] = chunk
            time = channel.at[channel.time] if channel.is_timely else -1
            by = self._context.times.get(channel.name) if channel.name in self._targets.moves else None
            channels[number] = (
                *(
                    (chunk.bytes.ctypes.data, len(chunk.bytes), at, chunk.rows - at)
                    if chunk
                    else (0, 0, 0, 0)
                ),
                table.base,
                len(channel.columns),
                books is not None and channel.name == books.name,
                0,
                channel.at[by] if by else -1,
                channel.at["recv_ts"],
                time,
                chunk.start_row if chunk else 0,
                frame.head.array.ctypes.data if frame is not None else 0,
                Head.nulls_word(which) if chunk else 0,
            )
            if chunk is None:
                continue
            needed = {i for i, c in enumerate(channel.columns) if not c.nullable or channel.has_parts}
            needed |= set(channel.essentials)
            for index, view in enumerate(chunk.views):
                columns[table.base + index] = (
                    view.offset,
                    view.validity_offset if len(view.validity) else -1,
                    0 if view.packed else view.values.itemsize,
                    index in needed and not view.packed,
                )

    def _bind_counters(self) -> None:
        """Write which counters there are."""
        counters = self._targets.counters
        numbers = {table.channel.name: number for number, table in enumerate(self._tables)}
        places = [counters.copies, counters.size, counters.sequence]
        places += [counters.payloads, counters.bytes, counters.messages, counters.batches]
        places += [counters.payloads_received, counters.bytes_received]
        places += [counters.late, counters.late_before]
        for place, channel in counters.lengths:
            places += [place, numbers[channel]]
        self._write({"state": counters.words, "counters": np.array(places, np.int64)})

    def _bind_series(self) -> None:
        """Write where the bars are."""
        builder = self._targets.bars
        if not isinstance(builder, Bars):
            return
        for number, each in enumerate(builder.intervals):
            arrays = each.bars, each.table, each.changed, each.flat_gaps, each.head, each.rows
            self._write({f"{n}{number}": a for n, a in zip(_SERIES, arrays, strict=True)})

    def _make_intervals(self) -> npt.NDArray[np.int64]:
        """Return the words of the bars of each length."""
        words: npt.NDArray[np.int64] = np.zeros((2, direct_bars.INTERVAL_WIDTH), np.int64)
        if isinstance(self._targets.bars, Bars):
            for number, each in enumerate(self._targets.bars.intervals):
                words[number] = each.interval, EVERY[each.interval], KEPT[each.interval], each.midpoints
        return words.reshape(-1)

    def _bind_latest(self) -> None:
        """Write where the last values of each channel go."""
        latest = self._targets.latest
        chunk = latest.chunk if latest is not None else None
        if "latest" in self._chunks and self._chunks["latest"] is chunk:
            return
        self._chunks["latest"] = chunk
        numbers = {table.channel.name: number for number, table in enumerate(self._tables)}
        aspects, moves = list[tuple[int, ...]](), list[tuple[int, ...]]()
        for name, each in self._targets.moves.items():
            if chunk is None or name not in numbers:
                continue
            for moved, order in each:
                sources = dict(moved)
                time, receipt = order or (-1, -1)
                aspects.append(
                    (
                        numbers[name],
                        len(moves),
                        len(moved),
                        sources.get(time, -1),
                        sources.get(receipt, -1),
                        *((chunk.views[time].offset, chunk.views[receipt].offset) if order else (0, 0)),
                        _bits(chunk, time) if order else -1,
                    )
                )
                moves += [
                    (
                        source,
                        chunk.views[to].offset,
                        _bits(chunk, to),
                        chunk.views[to].values.itemsize,
                        to * chunk.rows,
                    )
                    for to, source in moved
                ]
        present = latest.present if latest is not None else np.zeros(0, np.bool_)
        self._write(
            {
                "aspects": np.array(aspects, np.int64).reshape(-1),
                "moves": np.array(moves, np.int64).reshape(-1),
                "latest": chunk.bytes if chunk else np.zeros(0, np.uint8),
                "present": present.reshape(-1),
                "latest_head": latest.head.array if latest is not None else np.zeros(0, np.uint64),
            }
        )
        self._book[book.ASPECTS] = len(aspects)
        self._book[book.LATEST_ROOM] = chunk.rows if chunk else 0
        self._book[book.VERSIONS] = chunk.views[-1].offset if chunk else 0

    def _bind_bars(self) -> None:
        """Write which channels bars are made of, and where what they need is."""
        numbers = {table.channel.name: number for number, table in enumerate(self._tables)}
        rules = self._spec.bar_rules
        sources = rules.sources if rules is not None else ("", "", "", "")
        words = slice(book.TRADES, book.CANCELS + 1)
        self._book[words] = [numbers.get(name, -1) for name in sources]
        effects = self._context.effects
        known = effects.known.reshape(-1) if effects is not None else np.zeros(0, np.uint8)
        self._write({"effects": known})
        if rules is not None:
            names = (*_TRADE, rules.mark)
            self._own["trade"][:] = [self._spec.by_name[rules.trades].at.get(name, -1) for name in names]
        if rules is not None and rules.midpoints:
            at = self._spec.by_name[rules.midpoints].at
            self._own["quote"][: len(_QUOTE)] = [at[name] for name in _QUOTE]


def _bits(chunk: Chunk, index: int) -> int:
    """Return where the null bits of a column begin; -1 if it has none."""
    view = chunk.views[index]
    return view.validity_offset if len(view.validity) else -1


def warm() -> None:
    """Load or compile the kernels, by a batch without payloads."""
    nothing: npt.NDArray[np.int64] = np.zeros(book.WORDS, np.int64)
    for commit in _KERNELS.values():
        commit(nothing, np.zeros(1, PARTIAL), b"")
    direct_count.count(nothing)


def make(run: Path, spec: StreamSpec, targets: Targets, kernels: bool) -> Direct | None:
    """Return the direct path of a stream; None without kernels for it, or if last values have bits."""
    latest = targets.latest
    packed = latest is not None and any(column.kind is Kind.BOOL for column in latest.columns)
    if not kernels or packed or not tables_of(spec.channels):
        return None
    return Direct(run, spec, targets, kernels)
