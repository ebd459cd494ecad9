"""Payloads to columns: by compiled kernels where they know the form, else by the library.

    payloads ─► match (pass 1) ─► spans ─► values, codes (pass 2) ─► columns ─┐
                   │ gave way                  │ gave way                     ├─► in the order they came
                   └────────────► library ◄────┘  ─► columns ─────────────────┘

What the library would make of a payload, the kernels make, bit for bit; or the payload is the
library's. So nothing depends on which way a payload took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import orjson

from mdstream.handoff.columns import ColumnData
from mdstream.streams.spec import CODED, Channel, Column, Kind, PayloadKind, StreamSpec
from mdstream.streams.storage import DTYPE
from workers.codes import BatchCodes
from workers.columns import ColumnMaker, Position, Unfit
from workers.kernels import match_json, match_msgpack, ops, values_json, values_msgpack
from workers.kernels import texts as text_kernels
from workers.layouts import (
    Table,
    is_json,
    is_msgpack,
    json_end,
    learn_json,
    learn_msgpack,
    msgpack_end,
    tables_of,
)
from workers.library import Decoded, LibraryDecoder, Piece
from workers.matching import Codec, Matched, Matcher, drop
from workers.payloads import Payloads
from workers.texts import TextTable

_CODECS = {
    PayloadKind.JSON: Codec(
        match_json.match, learn_json, json_end, is_json, lambda data: b"[" + data + b"]", values_json
    ),
    PayloadKind.MSGPACK: Codec(
        match_msgpack.match, learn_msgpack, msgpack_end, is_msgpack, lambda data: b"\x91" + data,
        values_msgpack,
    ),
}  # fmt: skip
_PARSE: dict[PayloadKind, Callable[[bytes], Any]] = {
    PayloadKind.JSON: orjson.loads,
    PayloadKind.MSGPACK: partial(msgpack.unpackb, strict_map_key=False),
}
_MASK32 = np.uint64(0xFFFFFFFF)
_NO_SIDE: npt.NDArray[np.bool_] = np.empty(0, np.bool_)

LEAST_BYTES = 8192

Known = Callable[[str], Mapping[str, int]]


@dataclass(slots=True)
class _Fresh:
    """Texts of one column that have no code yet: their rows, and the texts."""

    column: int
    rows: list[int]
    texts: list[str]


@dataclass(slots=True)
class _Part:
    """What kernels made of one channel."""

    columns: list[ColumnData]
    fresh: list[_Fresh]
    payload: npt.NDArray[np.int32]
    message: npt.NDArray[np.int32]

    def position(self, row: int) -> Position:
        return int(self.payload[row]), int(self.message[row])


class Decoder:
    """Decodes the batches of one stream.

    `known` gives the codes of a dictionary by name; it may grow between batches, never within one.
    Batches of fewer than `least_bytes` are the library's: to begin costs kernels more than they save.
    """

    def __init__(self, spec: StreamSpec, known: Known, least_bytes: int = LEAST_BYTES) -> None:
        self._spec = spec
        self._known = known
        self._least_bytes = least_bytes
        self._library = LibraryDecoder(spec, known)
        tables = tables_of(spec)
        self._paths = {
            kind: _Path(spec, known, tables, codec, _PARSE[kind]) for kind, codec in _CODECS.items()
        }

    def decode(self, payloads: Payloads) -> Decoded:
        """Columns of a batch. Never raises for bad bytes."""
        if not len(payloads):
            return Decoded()
        kind = PayloadKind(int(payloads.kinds[0]))
        path = self._paths.get(kind)
        if path is None or int(payloads.lengths.sum()) < self._least_bytes:
            return self._library.decode(payloads)
        codes = BatchCodes(self._known)
        verdicts = np.where(payloads.kinds == kind, ops.GOOD, ops.OTHER).astype(np.uint8)
        found, parts = path.decode(payloads, verdicts)
        try:
            for name, part in parts.items():
                _admit(codes, self._spec.by_name[name], part)
        except Unfit:  # a dictionary is full: message by message, as the library does
            return self._library.decode(payloads)
        return self._merge(kind, payloads, verdicts, found, parts, codes)

    def _merge(
        self,
        kind: PayloadKind,
        payloads: Payloads,
        verdicts: npt.NDArray[np.uint8],
        found: Matched,
        parts: dict[str, _Part],
        codes: BatchCodes,
    ) -> Decoded:
        pieces = [
            Piece(
                int(i),
                0,
                payloads.view(int(i)),
                PayloadKind(int(payloads.kinds[i])),
                int(payloads.recv_ns[i]),
            )
            for i in np.flatnonzero(verdicts)
        ]
        pieces += [
            Piece(
                a.payload,
                a.message,
                _CODECS[kind].wrap(a.data),
                kind,
                int(payloads.recv_ns[a.payload]),
            )
            for a in drop(found.asides, verdicts)
        ]
        pieces.sort(key=lambda piece: (piece.payload, piece.message))
        out = self._library.decode_pieces(pieces, codes, found.messages.tolist())
        out.gave_way = int(np.count_nonzero(verdicts == ops.GAVE_WAY))
        for name, part in parts.items():
            channel = self._spec.by_name[name]
            for fresh in part.fresh:
                code = codes.coder(channel.columns[fresh.column], out.new)
                part.columns[fresh.column].values[fresh.rows] = [code(t) for t in fresh.texts]
            if name in out.columns:
                positions = out.rows[name].positions
                out.columns[name] = _interleave(channel, part, out.columns[name], positions)
            else:
                out.columns[name] = part.columns
        return out


def _admit(codes: BatchCodes, channel: Channel, part: _Part) -> None:
    for fresh in part.fresh:
        codes.admit(channel, [(fresh.column, fresh.texts)], [part.position(r) for r in fresh.rows])


def _interleave(
    channel: Channel, part: _Part, others: list[ColumnData], positions: list[Position]
) -> list[ColumnData]:
    """The rows of both ways in the order in which they came."""
    at = np.array(positions, np.int64).reshape(-1, 2)
    payload = np.concatenate((part.payload, at[:, 0]))
    message = np.concatenate((part.message, at[:, 1]))
    order = np.lexsort((message, payload))
    merged = []
    for ours, theirs in zip(part.columns, others, strict=True):
        mask = None
        if ours.mask is not None or theirs.mask is not None:
            mask = np.concatenate((_mask(ours), _mask(theirs)))[order]
        merged.append(ColumnData(np.concatenate((ours.values, theirs.values))[order], mask))
    return merged


def _mask(data: ColumnData) -> npt.NDArray[np.bool_]:
    return np.ones(len(data.values), np.bool_) if data.mask is None else data.mask


class _Path:
    """Kernels for one codec of one stream."""

    def __init__(
        self,
        spec: StreamSpec,
        known: Known,
        tables: dict[str, Table],
        codec: Codec,
        parse: Callable[[bytes], Any],
    ) -> None:
        self._known = known
        self._tables = tables
        self._matcher = Matcher(spec, tables, codec)
        self._kernels = codec.values
        self._maker = ColumnMaker()
        self._parse = parse
        self._texts: dict[Any, TextTable] = {}
        for table in tables.values():
            for column in table.channel.columns:
                if column.kind in CODED:
                    self._texts.setdefault(_text_key(column), TextTable(column, parse))

    def decode(
        self, payloads: Payloads, verdicts: npt.NDArray[np.uint8]
    ) -> tuple[Matched, dict[str, _Part]]:
        """Decode payloads whose verdict is `GOOD`, and change that of those that give way."""
        for (dictionary, *_), texts in self._texts.items():
            texts.refresh(self._known(dictionary))
        while True:
            found = self._matcher.match(payloads, verdicts)
            bad: set[int] = set()
            parts = {}
            for name, table in self._tables.items():
                if rows := int(found.rows[table.index]):
                    parts[name] = self._part(payloads, table, rows, bad)
            if not bad:
                return found, parts
            verdicts[list(bad)] = ops.GAVE_WAY

    def _part(self, payloads: Payloads, table: Table, rows: int, bad: set[int]) -> _Part:
        """The columns of one channel; payloads with a row that does not fit are added to `bad`."""
        matcher = self._matcher
        payload = matcher.row_payload[table.index, :rows]
        part = _Part([], [], payload.copy(), matcher.row_message[table.index, :rows].copy())
        absent: dict[str, npt.NDArray[np.bool_]] = {}
        for index, column in enumerate(table.channel.columns):
            if not column.key:
                part.columns.append(ColumnData(payloads.recv_ns[payload]))
                continue
            spans = matcher.spans[table.base + index, :rows]
            side = absent.get(column.side_of, _NO_SIDE)
            there = np.empty(rows, np.bool_)
            values = np.empty(rows, DTYPE[column.kind])
            fresh = None
            if table.sides and column.key == "side":
                odd, fresh = self._sides(table, column, spans, values, there)
            elif column.kind in CODED:
                odd, fresh = self._codes(payloads, column, spans, side, values, there)
            else:
                odd = self._values(payloads, column, spans, values, there)
                if column.absent_at_zero:
                    absent[column.name] = values == 0
                    there &= ~absent[column.name]
                elif len(side):
                    there &= ~(side & (values == 0))
            if fresh is not None:
                fresh.column = index
                part.fresh.append(fresh)
            if column.required:
                odd += np.flatnonzero(~there).tolist()
            bad.update(payload[odd].tolist())
            whole = column.kind is Kind.BOOL or bool(there.all())
            part.columns.append(ColumnData(values, None if whole else there))
        return part

    def _values(
        self, payloads: Payloads, column: Column, spans: Any, values: Any, there: Any
    ) -> list[int]:
        """Numbers and times; the rows that do not fit."""
        buffer = payloads.buffer
        odd = np.empty(len(spans), np.int64)
        match column.kind:
            case Kind.FLOAT:
                strange = self._kernels.floats(buffer, spans, values, there, odd)
            case Kind.TIME:
                strange = self._kernels.times(buffer, spans, values, there, odd)
            case Kind.BOOL:
                strange = self._kernels.booleans(
                    buffer, spans, values, there, odd, bool(column.default)
                )
            case _:
                signed = column.kind is Kind.INT
                strange = self._kernels.integers(buffer, spans, values, there, odd, signed)
        return [
            row
            for row in odd[:strange].tolist()
            if not self._one(payloads, column, spans, values, there, row)
        ]

    def _one(
        self, payloads: Payloads, column: Column, spans: Any, values: Any, there: Any, row: int
    ) -> bool:
        """Convert one value as the library does; whether it fits."""
        try:
            data = self._maker.value(column, self._parse(_raw(payloads, spans[row])))
        except (Unfit, ValueError, msgpack.UnpackException):
            return False
        values[row] = data.values[0]
        there[row] = data.mask is None
        return True

    def _sides(
        self, table: Table, column: Column, spans: Any, values: Any, there: Any
    ) -> tuple[list[int], _Fresh | None]:
        """The codes of book sides, which are no texts in the payload; and those without a code."""
        assert table.channel.levels is not None
        known = self._known(column.dictionary)
        fresh = _Fresh(-1, [], [])
        there[:] = True
        for number, side in enumerate(table.channel.levels.values(), 1):
            rows = spans == number
            if side in known:
                values[rows] = known[side]
            else:
                fresh.rows += np.flatnonzero(rows).tolist()
        fresh.rows.sort()
        names = list(table.channel.levels.values())
        fresh.texts = [names[int(spans[row]) - 1] for row in fresh.rows]
        return [], fresh if fresh.rows else None

    def _codes(
        self, payloads: Payloads, column: Column, spans: Any, side: Any, values: Any, there: Any
    ) -> tuple[list[int], _Fresh | None]:
        """Codes; the rows that do not fit, and the texts that are new."""
        table = self._texts[_text_key(column)]
        known = self._known(column.dictionary)
        odd, numbers = np.empty((2, len(spans)), np.int64)
        while True:
            strange, count = text_kernels.look_up(
                payloads.buffer, spans, table.slots, table.starts, table.sizes, table.pool,
                table.codes, table.blanks, side, values, there, odd, numbers,
            )  # fmt: skip
            if not strange:
                break
            for raw in {_raw(payloads, span) for span in spans[odd[:strange]]}:
                table.meet(raw, known)
        bad: list[int] = []
        fresh = _Fresh(-1, [], [])
        for row, number in zip(
            odd[len(odd) - count :].tolist(), numbers[len(odd) - count :].tolist(), strict=True
        ):
            text = table.texts[number]
            if table.codes[number] == text_kernels.UNFIT or text is None:
                bad.append(row)
            else:
                fresh.rows.append(row)
                fresh.texts.append(text)
        return bad, fresh if fresh.rows else None


def _raw(payloads: Payloads, span: Any) -> bytes:
    start = int(span & _MASK32)
    return payloads.buffer[start : start + int(span >> np.uint64(32))].tobytes()


def _text_key(column: Column) -> tuple[Any, ...]:
    values = None if column.values is None else tuple(column.values.items())
    return column.dictionary, column.kind, column.required, values
