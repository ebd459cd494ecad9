"""The address table of the direct path (`kernels.address_table`): writes where all arrays and chunks are.

It names the layouts and texts that the usual way (`workers.job`) has learned in this process, the ends of
the frames, and the arrays of last values, bars and counters.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.frames.chunk import Chunk
from mdstream.frames.direct_path import Targets
from mdstream.frames.head import Head
from mdstream.handoff.slab import Slab
from mdstream.streams.books import book_channel
from mdstream.streams.spec import PayloadKind, StreamSpec
from workers import job
from workers.aggregation.bars import Bars
from workers.aggregation.interval_bars import EVERY, KEPT
from workers.aggregation.ladders import Ladders
from workers.decoding.kernel_decoder import KernelDecoder
from workers.decoding.layouts import ChannelSlots
from workers.kernels import address_table, direct_bars, direct_books
from workers.kernels import columns as plans
from workers.kernels import direct_layout as layout
from workers.kernels.bar_table import BAR, ROW

_SERIES = {
    "bars": BAR,
    "bar_slots": np.int32,
    "changed_bars": np.int32,
    "gaps": np.int64,
    "bar_heads": np.int64,
    "bar_rows": ROW,
}
_TRADE = ("symbol", "ts", "price", "size", "recv_ts", "conditions", "tape")
_QUOTE = ("symbol", "ts", "bid_price", "ask_price", "recv_ts")


class AddressTable:
    """The address table of one stream. Kernels read `array`; `words` are the same words for Python."""

    # Written here, and by kernels:
    array: npt.NDArray[np.int64]
    own: dict[str, Any]
    """The arrays that only the direct path uses."""
    # Written only here:
    _bound: dict[str, Any]
    """The arrays in the table, by name."""
    _chunks: dict[str, Chunk | None]
    """The chunks in the table, by channel."""
    _slab: Slab | None
    _decoder: KernelDecoder | None
    _tables: list[ChannelSlots]
    """The decoder's channels, by number."""

    def __init__(self, run: Path, spec: StreamSpec, targets: Targets, kernels: bool) -> None:
        self._spec = spec
        self._targets = targets
        self._context = job.context_of(str(run), spec.name, kernels)
        self.array = np.zeros(address_table.WORDS, np.int64)
        self.words = memoryview(self.array)  # type: ignore[arg-type]
        self.own, self._bound, self._chunks = {}, {}, {}
        self._decoder = None
        self._tables = []
        self._slab_words = address_table.ARRAYS["buffer"][0]
        self._slab = None
        self.array[address_table.PID] = os.getpid()

    def bind(self) -> PayloadKind | None:
        """Bring the table up to date; return the kind of payload, or None if nothing can be decoded yet."""
        found = self._context.stream_decoder()
        if found is None:
            return None
        kind, decoder = found
        self._context.refresh()
        if decoder is not self._decoder:
            self._bind_decoder(decoder)
        self._write(decoder.arrays())
        self._bind_frames()
        self._bind_latest()
        self._bind_books()
        self._bind_series()
        self.array[address_table.KNOWN] = decoder.known_layouts
        self.array[address_table.ROOM] = decoder.room
        return kind

    def bind_slab(self, slab: Slab) -> None:
        """Write where the slab is."""
        if slab is self._slab:
            return
        self._slab, words = slab, self.words
        words[self._slab_words], words[self._slab_words + 1] = slab.address, len(slab.view)
        words[address_table.DATA] = slab.data_offset

    def _bind_decoder(self, decoder: KernelDecoder) -> None:
        """Write what stays where it is as long as the decoder does."""
        self._decoder, self._tables = decoder, decoder.channel_slots
        self.own = self._make_arrays()
        self.own["plans"][:] = np.concatenate(decoder.plans).reshape(-1)
        self._chunks = {}
        self._bind_bars()
        self._bind_counters()
        self._write(self.own)
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
        """Write the addresses of arrays that are not those in the table, and keep the arrays alive."""
        for name, array in arrays.items():
            if self._bound.get(name) is array:
                continue
            word, item = address_table.ARRAYS[name]
            assert array.dtype in (item, np.bool_), name
            assert array.flags.c_contiguous, name
            self._bound[name] = array
            self.words[word], self.words[word + 1] = array.ctypes.data, array.size

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
            "valid": most,
            "side_codes": 3,
        }
        arrays = {name: np.zeros(length, address_table.ARRAYS[name][1]) for name, length in lengths.items()}
        arrays["valid"][:] = 1
        return arrays

    def _bind_frames(self) -> None:
        """Write where the rows of each channel go."""
        channels = self.own["channels"].reshape(-1, layout.CHANNEL_WIDTH)
        columns = self.own["columns"].reshape(-1, layout.COLUMN_WIDTH)
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
        self.array[address_table.ASPECTS] = len(aspects)
        self.array[address_table.LATEST_ROOM] = chunk.rows if chunk else 0
        self.array[address_table.VERSIONS] = chunk.views[-1].offset if chunk else 0

    def _bind_books(self) -> None:
        """Write where the levels of order books are, and where the best ones go."""
        targets = self._targets.books
        channel = book_channel(self._spec)
        if targets is None or channel is None or not isinstance(targets.ladders, Ladders):
            self.array[address_table.BOOKS] = -1
            return
        names = [table.channel.name for table in self._tables]
        self.array[address_table.BOOKS] = names.index(channel.name)
        codes = self._context.codes_of(channel.column("side").dictionary)
        sides = (channel.levels or {}).values()
        self.own["side_codes"][1:] = [codes.get(side, -1) for side in sides]
        ladders, frame, chunk = targets.ladders, targets.frame, targets.frame.chunk
        self._write(
            {
                "level": np.array([channel.at[name] for name in direct_books.LEVEL_COLUMNS], np.int64),
                "asks": ladders.asks,
                "sides": ladders.sides,
                "edges": ladders.edges,
                "complete": ladders.complete,
                "totals": ladders.totals,
                "level_prices": ladders.prices,
                "level_sizes": ladders.sizes,
            }
        )
        self.array[address_table.SHOWN_ROOM] = chunk.rows if chunk else 0
        if chunk is None or self._chunks.get("books") is chunk:
            return
        self._chunks["books"] = chunk
        places = [
            (view.offset, _bits(chunk, index), index * chunk.rows) for index, view in enumerate(chunk.views)
        ]
        self._write(
            {
                "shown": chunk.bytes,
                "shown_columns": np.array(places[1:-1], np.int64).reshape(-1),
                "shown_present": frame.present.reshape(-1),
                "shown_head": frame.head.array,
            }
        )
        self.array[address_table.SHOWN_VERSIONS] = chunk.views[-1].offset

    def _bind_bars(self) -> None:
        """Write which channels bars are made of, and where what they need is."""
        numbers = {table.channel.name: number for number, table in enumerate(self._tables)}
        rules = self._spec.bar_rules
        sources = rules.sources if rules is not None else ("", "", "", "")
        words = slice(address_table.TRADES, address_table.CANCELS + 1)
        self.array[words] = [numbers.get(name, -1) for name in sources]
        effects = self._context.effects
        known = effects.known.reshape(-1) if effects is not None else np.zeros(0, np.uint8)
        self._write({"effects": known})
        if rules is not None:
            names = (*_TRADE, rules.mark)
            self.own["trade"][:] = [self._spec.by_name[rules.trades].at.get(name, -1) for name in names]
        if rules is not None and rules.midpoints:
            at = self._spec.by_name[rules.midpoints].at
            self.own["quote"][: len(_QUOTE)] = [at[name] for name in _QUOTE]


def _bits(chunk: Chunk, index: int) -> int:
    """Return where the null bits of a column begin; -1 if it has none."""
    view = chunk.views[index]
    return view.validity_offset if len(view.validity) else -1
