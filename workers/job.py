"""One task of the pool: a ticket in, columns in shared memory and a receipt out.

    slab ─► decode ─► aggregate ─► result area of the same slab ─► receipt

1. Map the slab (once; slabs are reused) and read which payloads it has.
2. Decode them to columns for each channel; texts without a code get provisional ones.
3. Fold trades into partials; pick the newest rows of each symbol.
4. Write all of that into the slab's result area, or into a file of its own if it does not fit.

The receipt says where everything is. A task that runs twice (its worker or its feed died) writes the same
bytes again.
"""

from __future__ import annotations

import mmap
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mdstream.frames.dictionary import DictionaryReader
from mdstream.frames.rundir import dictionary_path, frame_path
from mdstream.handoff.columns import PARTIAL, ColumnData, ResultArea, array_bytes, part_bytes
from mdstream.handoff.rejects import make_columns, reject_row
from mdstream.handoff.slab import Slab
from mdstream.handoff.space import create_file
from mdstream.handoff.ticket import BookLosses, Extent, Part, Receipt, Ticket
from mdstream.streams import STREAMS
from mdstream.streams.books import book_channel
from mdstream.streams.spec import REJECTS, STATE, SYMBOL, Channel, Column, PayloadKind
from mdstream.streams.storage import DTYPE, PROVISIONAL
from mdstream.telemetry.histogram import bucket_of
from workers.aggregation.aggregate import (
    Effects,
    events_of_quotes,
    events_of_trades,
    fold,
    in_order,
    make_partials,
)
from workers.aggregation.books import find_losses, net_rows
from workers.aggregation.latest import newest_rows
from workers.decoding.decoder import Decoder
from workers.decoding.fallback import Decoded
from workers.decoding.kernel_decoder import KernelDecoder
from workers.decoding.payloads import Payloads

_MAX_MAPPED = 128

ChannelColumns = list[tuple[Channel, Sequence[ColumnData]]]


class _ResultExtents(NamedTuple):
    """Places of a result's parts, as fields of a receipt, in their order."""

    parts: tuple[Part, ...]
    books: Part | None
    newest: dict[str, Extent]
    partials: Extent


class _Result(NamedTuple):
    """Result of a batch: rows for frames, and updates for keyed frames and bars."""

    frames: ChannelColumns
    books: ChannelColumns
    """At most one channel."""
    newest: dict[str, npt.NDArray[np.int64]]
    partials: npt.NDArray[np.void]

    @property
    def bytes(self) -> int:
        """The bytes that it takes in a result area."""
        arrays = (*self.newest.values(), self.partials)
        columns = sum(part_bytes(channel, data) for channel, data in self.frames + self.books)
        return columns + sum(map(array_bytes, arrays))

    def put(self, area: ResultArea) -> _ResultExtents | None:
        """Write it into `area`; return None if there is no room."""
        parts: list[Part] = []
        for channel, columns in self.frames + self.books:
            if (part := area.put(channel, columns)) is None:
                return None
            parts.append(part)
        extents: list[Extent] = []
        for array in (*self.newest.values(), self.partials):
            if (extent := area.add(array)) is None:
                return None
            extents.append(extent)
        books = parts.pop() if self.books else None
        partials = extents.pop()
        return _ResultExtents(tuple(parts), books, dict(zip(self.newest, extents, strict=True)), partials)


class Context:
    """State that a worker keeps between the tickets of one stream of one run."""

    def __init__(self, run: str, stream: str, kernels: bool = True) -> None:
        self.spec = STREAMS[stream]
        self.run = Path(run)
        self.slabs: OrderedDict[str, Slab] = OrderedDict()
        self._dictionaries = {
            name: DictionaryReader(dictionary_path(self.run, stream, name))
            for name in self.spec.dictionaries
        }
        self.decoder = Decoder(self.spec, self.codes_of, kernels=kernels)
        rules = self.spec.bar_rules
        self.effects = Effects(rules) if rules else None
        self.books = book_channel(self.spec)
        self.times = {aspect.channel: "ts" for aspect in self.spec.latest if aspect.channel}
        """For each channel that updates keyed frames, the column that decides which row is the newest."""
        if any(aspect.sources(self.spec.by_name[STATE]) for aspect in self.spec.latest):
            self.times[STATE] = "recv_ts"

    def slab(self, path: str) -> Slab:
        """Return the slab at `path`, mapped once."""
        slab = self.slabs.pop(path, None)
        if slab is None:
            slab = Slab.open(Path(path))
            # A slab that the feed has removed keeps its memory as long as it is mapped.
            for gone in [other for other, each in self.slabs.items() if not each.path.exists()]:
                del self.slabs[gone]
        self.slabs[path] = slab
        if len(self.slabs) > _MAX_MAPPED:
            self.slabs.popitem(last=False)
        return slab

    def refresh(self) -> None:
        for dictionary in self._dictionaries.values():
            dictionary.refresh()

    def text(self, column: Column, code: int, new: Mapping[str, tuple[str, ...]]) -> str:
        """Return the text of a code, which may be new in this batch."""
        base = PROVISIONAL[column.kind]
        if code >= base:
            return new[column.dictionary][code - base]
        return self._dictionaries[column.dictionary].texts[code]

    def stream_decoder(self) -> tuple[PayloadKind, KernelDecoder] | None:
        """Return the kernels that decode payloads of the stream; None before they met one."""
        return self.decoder.stream_decoder()

    def codes_of(self, dictionary: str) -> Mapping[str, int]:
        """Return the codes of a dictionary's texts."""
        return self._dictionaries[dictionary].codes


_contexts: dict[tuple[str, str, bool], Context] = {}


def context_of(run: str, stream: str, kernels: bool) -> Context:
    """Return what this process has learned of a stream."""
    key = run, stream, kernels
    if key not in _contexts:
        for other in [other for other in _contexts if other[0] != run]:
            del _contexts[other]
        _contexts[key] = Context(*key)
    return _contexts[key]


def run(ticket: Ticket) -> Receipt:
    """Decode and aggregate the batch of `ticket`."""
    start_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
    context = context_of(ticket.run, ticket.stream, ticket.kernels)
    context.refresh()
    slab = context.slab(ticket.slab)
    entries = slab.entries

    area = slab.result
    area.used = 0
    payloads = Payloads.of_slab(slab, entries)
    decoded = context.decoder.decode(payloads, area)
    table = slab.table[:entries]
    table["messages"] = decoded.counts
    from_stream = table["kind"] <= PayloadKind.MSGPACK

    result = _build_result(context, decoded, payloads)
    if decoded.rejects:
        result.frames.append((REJECTS, _reject_columns(decoded, payloads)))
    rejected = [int(table["kind"][reject.payload]) <= PayloadKind.MSGPACK for reject in decoded.rejects]
    result_file, places = _write(slab, area, result)
    messages = table["messages"].astype(np.int64)
    return Receipt(
        ticket.sequence,
        os.getpid(),
        start_ns,
        time.monotonic_ns(),
        time.thread_time_ns() - cpu_ns,
        result_file,
        *places,
        _book_losses(context, decoded, payloads),
        decoded.new,
        (int(messages[from_stream].sum()), int(messages[~from_stream].sum())),
        (sum(rejected), len(rejected) - sum(rejected)),
        tuple(decoded.control),
        decoded.bodies,
        _delays(context, decoded),
        decoded.fell_back,
        decoded.fault,
    )


def rebuild_partials(run: str, stream: str, rows: Mapping[str, int]) -> bytes:
    """Return the partials of the first `rows` rows of each source of bars, as bytes of `PARTIAL`.

    Sources are trades, and quotes if midpoints count. Rows already dropped are missing. Used to restore
    open bars after a kill. The order of a trade and a quote of one payload is lost.
    """
    spec = STREAMS[stream]
    if (rules := spec.bar_rules) is None:
        return b""
    context = Context(run, stream)
    context.refresh()
    trades = spec.by_name[rules.trades]
    columns = _read_first_rows(run, stream, trades, rows[trades.name])
    text = partial(context.text, new={})
    found = [events_of_trades(trades, columns, Effects(rules), text)]
    if rules.midpoints:
        quotes = spec.by_name[rules.midpoints]
        found.append(events_of_quotes(quotes, _read_first_rows(run, stream, quotes, rows[quotes.name])))
    places = [events.received for events in found]
    return fold(in_order(places, found)).tobytes()


def _read_first_rows(run: str, stream: str, channel: Channel, rows: int) -> list[ColumnData]:
    """Return the first rows of a frame; rows already dropped are missing."""
    from mdstream.reading.reader import FrameReader

    _, frame = FrameReader(frame_path(Path(run), f"{stream}.{channel.name}")).read(0, rows)
    return [
        ColumnData(
            np.require(frame[c.name].to_physical().fill_null(0).to_numpy(), DTYPE[c.kind], "C"),
            frame[c.name].is_not_null().to_numpy(),
        )
        for c in channel.columns
    ]


def _fold_partials(context: Context, decoded: Decoded, payloads: Payloads) -> npt.NDArray[np.void]:
    if (rules := context.spec.bar_rules) is None or context.effects is None:
        return np.empty(0, PARTIAL)
    text = partial(context.text, new=decoded.new)
    return make_partials(context.spec, rules, decoded, payloads, context.effects, text)


def _build_result(context: Context, decoded: Decoded, payloads: Payloads) -> _Result:
    by_name, columns = context.spec.by_name, decoded.columns
    partials = _fold_partials(context, decoded, payloads)
    books = context.books
    return _Result(
        [(by_name[name], columns[name]) for name in columns],
        [(books, net_rows(books, columns[books.name], decoded.order_of(books.name)))]
        if books and books.name in columns
        else [],
        {
            name: newest_rows(by_name[name], columns[name], time)
            for name, time in context.times.items()
            if name in columns
        },
        partials,
    )


def _book_losses(context: Context, decoded: Decoded, payloads: Payloads) -> BookLosses | None:
    if (books := context.books) is None:
        return None

    def symbol_of(code: int) -> str:
        return context.text(SYMBOL, code, decoded.new)

    return find_losses(books, decoded, payloads, symbol_of)


def _reject_columns(decoded: Decoded, payloads: Payloads) -> Sequence[ColumnData]:
    """Return the rejects of a batch as rows, in order of receipt."""
    return make_columns(
        [
            reject_row(
                PayloadKind(int(payloads.kinds[reject.payload])),
                reject,
                int(payloads.recv_ns[reject.payload]),
            )
            for reject in sorted(decoded.rejects)
        ]
    )


def _write(slab: Slab, area: ResultArea, result: _Result) -> tuple[str, _ResultExtents]:
    """Write the result into the slab's own area, or into a file beside it if that is too small.

    Return the file's path, empty if there is none, and the places of all parts.
    """
    if (places := result.put(area)) is not None:
        return "", places
    needed, path = result.bytes, slab.result_path
    path.unlink(missing_ok=True)  # from a worker that died
    descriptor = create_file(path, needed, os.O_EXCL)
    try:
        places = result.put(ResultArea(memoryview(mmap.mmap(descriptor, needed))))
    finally:
        os.close(descriptor)
    assert places is not None
    return str(path), places


def _delays(context: Context, decoded: Decoded) -> tuple[tuple[int, int], ...]:
    """Return the ages of the batch's events when they were received, as a sparse histogram."""
    ages: list[Any] = []
    for name, columns in decoded.columns.items():
        channel = context.spec.by_name[name]
        if channel.is_timely:
            ages.append(columns[channel.at["recv_ts"]].values - columns[channel.at[channel.time]].values)
    if not ages:
        return ()
    found = np.bincount(bucket_of(np.concatenate(ages)))
    [used] = found.nonzero()
    return tuple(zip(used.tolist(), found[used].tolist(), strict=True))
