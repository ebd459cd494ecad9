"""Pages of history to staged columns, and staged columns to files of the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from mdstream.errors import DecompressionError
from mdstream.handoff.columns import ColumnData, ResultArea
from mdstream.handoff.compression import decompress
from mdstream.handoff.page_ticket import JoinReceipt, JoinTicket, PageReceipt, PageTicket
from mdstream.handoff.ticket import Reject
from mdstream.limits import LARGEST_UNPACKED
from mdstream.store.schema import LARGEST_INT, stored_columns, stored_schema, why_too_large
from mdstream.streams import STREAMS
from mdstream.streams.spec import CODED, SYMBOL, Channel, Column, Kind
from mdstream.streams.storage import DICTIONARY_LIMIT, PROVISIONAL
from workers import python_mode
from workers.decoding.decoder import Decoder
from workers.decoding.payloads import Payloads
from workers.decoding.salvage import BOM
from workers.repeats import (
    add_marks,
    drop_repeats,
    find_newest,
    find_overlap,
    groups,
    pack_marks,
    read_same_times,
    unpack_marks,
)

if TYPE_CHECKING:
    pass

_AREA_BYTES = 8 * 1024 * 1024
"""Bytes for the columns of a page; larger results are allocated separately."""

_SPANNED = {Kind.SYMBOL: pa.string(), Kind.TIME: pa.int64()}
"""Kinds of columns whose minimum and maximum let a reader skip a file."""


class PageDecoder:
    """Decodes pages of one stream. Nothing outside sees its codes."""

    # Written by `stage` only.
    _codes: dict[str, dict[str, int]]
    """The codes of texts, by dictionary."""

    def __init__(self, stream: str) -> None:
        self.spec = STREAMS[stream]
        self._codes = {}
        self._decoder = Decoder(self.spec, self._codes_of, kernels=not python_mode.is_on())
        self._area = memoryview(bytearray(_AREA_BYTES))

    @property
    def is_crowded(self) -> bool:
        """Return whether a dictionary is half full."""
        return any(
            2 * len(self._codes_of(column.dictionary)) > DICTIONARY_LIMIT[column.kind]
            for channel in self.spec.channels
            for column in channel.columns
            if column.kind in CODED
        )

    def stage(self, ticket: PageTicket) -> PageReceipt:
        """Write the page's rows to its staged file."""
        try:
            data = decompress(ticket.body, ticket.compression, LARGEST_UNPACKED)
        except DecompressionError as error:
            return PageReceipt(0, "", str(error), (), 0)
        payloads = Payloads.of([(data, ticket.kind, ticket.recv_ns)])
        decoded = self._decoder.decode(payloads, ResultArea(self._area))
        for name, texts in decoded.new.items():
            known = self._codes_of(name)
            for text in texts:
                known[text] = len(known)
        found, rejects = decoded.bodies.get(0), tuple(decoded.rejects)
        if found is None or found.fault:
            why = found.fault if found else (rejects[0].reason if rejects else "no page")
            return PageReceipt(0, "", why, rejects, 0)
        member = self.spec.member_of(ticket.kind)
        if not found.symbols and not rejects and member not in orjson.loads(data.removeprefix(BOM)):
            return PageReceipt(0, "", f"it has no {member}", rejects, 0)
        columns, rows, last_ns = decoded.columns.get(ticket.channel), 0, 0
        other_symbols = other_times = 0
        if columns is not None:
            channel = self.spec.by_name[ticket.channel]
            times = _event_times(channel, columns)
            kept = np.ones(len(times), np.bool_)
            if refused := _find_refused(channel, columns):
                messages = decoded.order_of(channel.name) & 0xFFFFFFFF
                found_late = [Reject(0, int(messages[row]), why) for row, why in refused.items()]
                rejects = *rejects, *self._decoder.add_bytes(found_late, payloads)
                kept[list(refused)] = False
            table = self._table(channel, columns, decoded.new)
            if ticket.symbols and not found.symbols <= {*ticket.symbols}:
                wanted = pa.array(ticket.symbols, pa.string())
                is_wanted = compute.is_in(table[SYMBOL.name].cast(pa.string()), wanted).to_numpy()
                other_symbols = int((kept & ~is_wanted).sum())
                kept &= is_wanted
            other_times = int((kept & ~_is_within(times, ticket.queried)).sum())
            kept &= _is_within(times, ticket.span)
            table = table if kept.all() else table.filter(pa.array(kept))
            rows, last_ns = table.num_rows, int(times[-1])
            if rows:
                _write(table, Path(ticket.path))
        return PageReceipt(rows, found.page_token, "", rejects, last_ns, other_symbols, other_times)

    def _codes_of(self, name: str) -> dict[str, int]:
        return self._codes.setdefault(name, {})

    def _table(self, channel: Channel, columns: Any, new: dict[str, tuple[str, ...]]) -> pa.Table:
        arrays: list[pa.Array] = []
        by_name = {column.name: data for column, data in zip(channel.columns, columns, strict=True)}
        for column in stored_columns(channel):
            data: ColumnData = by_name[column.name]
            absent = None if data.mask is None else ~np.asarray(data.mask, np.bool_)
            if column.kind is Kind.TIME:
                micros, beyond = np.divmod(data.values, 1000)
                arrays.append(pa.array(micros, pa.timestamp("us", "UTC"), mask=absent))
                arrays.append(pa.array(beyond.astype(np.int16), mask=absent))
            elif column.kind is Kind.SYMBOLS:
                texts = self._texts(column, np.asarray(data.heap), None, new).cast(pa.string())
                arrays.append(_lists(data.values, texts, absent))
            elif column.kind in CODED:
                arrays.append(self._texts(column, data.values, absent, new))
            elif column.kind in (Kind.TEXT, Kind.JSON):
                arrays.append(_strings(data, absent))
            elif column.kind is Kind.UINT:
                arrays.append(pa.array(data.values.view(np.int64), mask=absent))
            else:
                arrays.append(pa.array(data.values, mask=absent))
        return pa.Table.from_arrays(arrays, schema=stored_schema(channel, coded=True))

    def _texts(
        self, column: Column, codes: npt.NDArray[Any], absent: Any, new: dict[str, tuple[str, ...]]
    ) -> pa.Array:
        """Return codes as an Arrow dictionary of the texts that occur."""
        known, base = self._codes_of(column.dictionary), PROVISIONAL[column.kind]
        used, which = _distinct(codes if absent is None else np.where(absent, 0, codes))
        fresh, every = new.get(column.dictionary, ()), list(known)
        names = [
            fresh[code - base] if code >= base else every[code] if code < len(every) else ""
            for code in used.tolist()
        ]
        return pa.DictionaryArray.from_arrays(pa.array(which, mask=absent), pa.array(names, pa.string()))


_decoders: dict[str, PageDecoder] = {}


def stage(ticket: PageTicket) -> PageReceipt:
    """Stage a page with this process's decoder of the stream."""
    decoder = _decoders.get(ticket.stream)
    if decoder is None or decoder.is_crowded:
        decoder = _decoders[ticket.stream] = PageDecoder(ticket.stream)
    return decoder.stage(ticket)


def join(ticket: JoinTicket) -> JoinReceipt:
    """Join staged files to one Parquet file, one row group at a time, which bounds memory."""
    spec = STREAMS[ticket.stream]
    channel = spec.by_name[ticket.channel]
    rules = spec.bar_rules
    mark = rules.mark if rules is not None and rules.trades == channel.name else ""
    into = Path(ticket.into)
    into.parent.mkdir(parents=True, exist_ok=True)
    schema = stored_schema(channel, coded=True)
    numbers = [f.name for f in schema if pa.types.is_timestamp(f.type) or pa.types.is_integer(f.type)]
    spanned = [
        column for column in stored_columns(channel)[:2] if column.required and column.kind in _SPANNED
    ]
    first: dict[str, str | int] = {}
    last: dict[str, str | int] = {}
    rows = repeated = differing = 0
    marks, missing = unpack_marks(ticket.marks), list[pa.Table]()
    compares = bool(channel.numbered_by or channel.one_per)
    newest = find_newest(ticket.before, channel) if compares else {}
    with pq.ParquetWriter(
        into,
        schema,
        compression="zstd",
        compression_level=1,
        write_page_index=True,
        use_dictionary=[f.name for f in schema if f.name not in numbers],
        column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
    ) as writer:
        for staged, begin in groups(ticket.paths, schema):
            group = staged if marks is None else add_marks(staged, marks, mark)
            if compares:
                again = find_overlap(staged, newest, channel)
                paths = (*ticket.before, *ticket.paths[:begin]) if again else ()
                earlier = read_same_times(paths, staged, channel, again)
                kept = drop_repeats(group, earlier, channel, mark)
                repeated += staged.num_rows - kept.rows.num_rows
                differing += kept.differing
                missing += [] if kept.marks is None else [kept.marks]
                group = kept.rows
            if not group.num_rows:
                continue
            writer.write_table(group, row_group_size=group.num_rows)
            rows += group.num_rows
            for column in spanned:
                span = compute.min_max(group[column.name].cast(_SPANNED[column.kind]))
                least, most = span["min"].as_py(), span["max"].as_py()
                first[column.name] = min(first.get(column.name, least), least)
                last[column.name] = max(last.get(column.name, most), most)
    _settle(into)
    pa.default_memory_pool().release_unused()
    lacking = pack_marks(missing) if marks is None else b""
    return JoinReceipt(rows, into.stat().st_size, first, last, repeated, differing, lacking)


def _event_times(channel: Channel, columns: Any) -> npt.NDArray[np.int64]:
    """Return the event time of each row, which is its first time column."""
    at = next(i for i, column in enumerate(channel.columns) if column.kind is Kind.TIME)
    times: npt.NDArray[np.int64] = columns[at].values
    return times


def _is_within(times: npt.NDArray[np.int64], span: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return whether each time is in the half-open `span`."""
    return (times >= span[0]) & (times < span[1])


def _find_refused(channel: Channel, columns: Any) -> dict[int, str]:
    """Return the rows that a table cannot hold, each with the reason."""
    found: dict[int, str] = {}
    for column, data in zip(channel.columns, columns, strict=True):
        if column.kind is Kind.UINT:
            for row in np.flatnonzero(data.values > LARGEST_INT).tolist():
                found.setdefault(row, why_too_large(column.name, int(data.values[row])))
    return found


def _distinct(codes: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Return the codes that occur, and for each row the index of its code."""
    if len(codes) and (codes == codes[0]).all():
        return codes[:1], np.zeros(len(codes), np.int32)
    if codes.dtype != np.uint16:
        used, which = np.unique(codes, return_inverse=True)
        return used, which.astype(np.int32)
    used = np.flatnonzero(np.bincount(codes))
    places = np.zeros(1 << 16, np.int32)
    places[used] = np.arange(len(used))
    return used, places[codes]


def _lists(ends: npt.NDArray[Any], texts: pa.Array, absent: Any) -> pa.Array:
    offsets = pa.array(np.concatenate(([0], ends)).astype(np.int32))
    mask = None if absent is None else pa.array(absent)
    return pa.ListArray.from_arrays(offsets, texts, mask=mask)


def _strings(data: ColumnData, absent: Any) -> pa.Array:
    offsets = np.concatenate(([0], data.values)).astype(np.int64)
    heap = np.ascontiguousarray(data.heap)
    bits = None if absent is None else pa.py_buffer(np.packbits(~absent, bitorder="little"))
    buffers = [bits, pa.py_buffer(offsets), pa.py_buffer(heap)]
    whole = pa.Array.from_buffers(pa.large_string(), len(data.values), buffers)
    return whole.cast(pa.string())


def _write(table: pa.Table, path: Path) -> None:
    """Write an Arrow IPC file; it exists with all its rows or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    partial.rename(path)


def _settle(path: Path) -> None:
    """Flush a file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
