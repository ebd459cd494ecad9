"""Kernels for one kind of payload of one stream: pass 1, pass 2, and what gives way.

payloads ─► match ─► spans ─► a column at a time ─► values, masks, codes
▲                      │
└── without those in ──┘  which something does not fit
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

from mdstream.handoff.columns import ColumnData, ResultArea
from mdstream.streams.spec import CODED, Column, Kind, PayloadKind, StreamSpec
from mdstream.streams.storage import DTYPE
from workers import learn_json, learn_msgpack
from workers.bodies import BodyMatcher
from workers.columns import ColumnMaker, Position, Unfit
from workers.kernels import match_json, match_msgpack, ops, values_json, values_msgpack
from workers.kernels import texts as text_kernels
from workers.layouts import Table, tables_of
from workers.matching import Codec, Matched, Matcher
from workers.payloads import Payloads
from workers.texts import TextTable

CODECS = {
    PayloadKind.JSON: Codec(
        match_json.match, learn_json.learn_message, learn_json.end_of, learn_json.is_whole,
        lambda data: b"[" + data + b"]", values_json,
    ),
    PayloadKind.MSGPACK: Codec(
        match_msgpack.match, learn_msgpack.learn_message, learn_msgpack.end_of, learn_msgpack.is_whole,
        lambda data: b"\x91" + data, values_msgpack,
    ),
}  # fmt: skip
_NO_SIDE: npt.NDArray[np.bool_] = np.empty(0, np.bool_)

Known = Callable[[str], Mapping[str, int]]


@dataclass(slots=True)
class Fresh:
    """Texts of one column that have no code yet: their rows, and the texts."""

    column: int
    rows: list[int]
    texts: list[str]


@dataclass(slots=True)
class Part:
    """What kernels made of one channel."""

    columns: list[ColumnData]
    fresh: list[Fresh]
    payload: npt.NDArray[np.int32]
    message: npt.NDArray[np.int32]

    def position(self, row: int) -> Position:
        """Where a row came."""
        return int(self.payload[row]), int(self.message[row])


@dataclass(slots=True)
class _Task:
    """How one column is made."""

    column: Column
    dtype: npt.DTypeLike
    convert: Callable[..., tuple[int, int, int]] | None = None
    """The kernel; None for codes."""
    option: bool = False
    """What it wants to know besides: whether integers have a sign, what missing booleans are, whether
    floats are the price of a quote's side."""
    texts: TextTable | None = None
    sides: tuple[str, ...] = ()
    """The names of a book's sides, for the column that tells them."""


_CONVERTED = {
    Kind.FLOAT: ("floats", False),
    Kind.TIME: ("times", False),
    Kind.BOOL: ("booleans", False),
    Kind.INT: ("integers", True),
    Kind.UINT: ("integers", False),
}
"""Kind → its kernel, and what that is told."""


def has_kernels(spec: StreamSpec, kind: PayloadKind) -> bool:
    """Whether kernels know payloads of `kind` in this stream."""
    if kind.from_stream:
        return True
    channel = spec.by_name.get(kind.name.lower())
    return channel is not None and bool(tables_of([channel]))


class Path:
    """Kernels for one kind of payload of one stream."""

    # The mutable state: the layouts and the texts met so far.

    def __init__(self, spec: StreamSpec, known: Known, kind: PayloadKind) -> None:
        self._known = known
        parse: Callable[[bytes], Any] = orjson.loads
        if kind.from_stream:
            codec = CODECS[kind]
            self._tables = tables_of(spec.channels)
            self._matcher = Matcher(spec, self._tables, codec)
            self._kernels = codec.values
            if kind is PayloadKind.MSGPACK:
                parse = partial(msgpack.unpackb, strict_map_key=False)
        else:
            self._tables = tables_of([spec.by_name[kind.name.lower()]])
            [table] = self._tables.values()
            self._matcher = BodyMatcher(spec, table, kind)
            self._kernels = values_json
        self._maker = ColumnMaker()
        self._parse = parse
        self._numbers: npt.NDArray[np.int64] = np.empty((2, 0), np.int64)
        self._texts: dict[Any, TextTable] = {}
        self._tasks = [
            [self._task(table, column) for column in table.channel.columns]
            for table in self._tables.values()
        ]

    def _task(self, table: Table, column: Column) -> _Task:
        task = _Task(column, DTYPE[column.kind])
        if column.key == "side" and table.sides:
            task.sides = tuple((table.channel.levels or {}).values())
        elif column.kind in CODED:
            task.texts = self._texts.setdefault(_text_key(column), TextTable(column, self._parse))
        else:
            name, task.option = _CONVERTED[column.kind]
            task.convert = getattr(self._kernels, name)
            task.option = task.option or bool(column.default) or column.absent_at_zero
        return task

    def decode(
        self, payloads: Payloads, verdicts: npt.NDArray[np.uint8], area: ResultArea | None
    ) -> tuple[Matched, dict[str, Part]]:
        """Decode payloads whose verdict is `GOOD`, in `area` if there is room, and change the verdict of
        those that give way.
        """
        used = area.used if area is not None else 0
        for (dictionary, *_), texts in self._texts.items():
            texts.refresh(self._known(dictionary))
        while True:
            found = self._matcher.match(payloads, verdicts)
            bad: set[int] = set()
            parts = {}
            for name, table in self._tables.items():
                if rows := int(found.rows[table.index]):
                    made = area.make(table.channel, rows) if area is not None else None
                    parts[name] = self._part(payloads, table, rows, made, bad)
            if not bad:
                return found, parts
            verdicts[list(bad)] = ops.GAVE_WAY
            if area is not None:
                area.used = used

    def _part(
        self,
        payloads: Payloads,
        table: Table,
        rows: int,
        made: list[ColumnData] | None,
        bad: set[int],
    ) -> Part:
        """The columns of one channel, in `made` if given; payloads with a row that does not fit are
        added to `bad`.
        """
        matcher = self._matcher
        payload = matcher.row_payload[table.index, :rows]
        tasks = self._tasks[table.index]
        if made is None:
            made = [ColumnData(np.empty(rows, task.dtype)) for task in tasks]
        part = Part(made, [], payload.copy(), matcher.row_message[table.index, :rows].copy())
        absent: dict[str, npt.NDArray[np.bool_]] = {}
        for index, (task, data) in enumerate(zip(tasks, made, strict=True)):
            column, values = task.column, data.values
            if not column.key:
                payloads.recv_ns.take(payload, out=values, mode="clip")
                continue
            spans = matcher.spans[table.base + index, :rows]
            there = np.empty(rows, np.bool_) if data.mask is None else data.mask
            side = absent.get(column.side_of, _NO_SIDE)
            if task.convert is None:
                odd, missing, fresh = self._codes(payloads, task, spans, side, values, there)
                if fresh is not None:
                    fresh.column = index
                    part.fresh.append(fresh)
            else:
                if column.absent_at_zero:
                    side = np.empty(rows, np.bool_)
                odd, missing, zeros = self._values(payloads, task, spans, side, values, there)
                if zeros:
                    absent[column.name] = side
            if missing and column.required:
                odd += np.flatnonzero(~there).tolist()
            if odd:
                bad.update(payload[odd].tolist())
            data.mask = there if missing and column.kind is not Kind.BOOL else None
        return part

    def _values(
        self, payloads: Payloads, task: _Task, spans: Any, side: Any, values: Any, there: Any
    ) -> tuple[list[int], int, int]:
        """Numbers and times: the rows that do not fit, how many have no value, and how many zeros
        there are that mean that a quote's side is absent.
        """
        assert task.convert is not None
        odd = self._scratch(len(spans))[0]
        strange, missing, zeros = task.convert(
            payloads.buffer, spans, values, there, odd, side, task.option
        )
        if not strange:
            return [], missing, zeros
        rows = odd[:strange].tolist()
        bad = [r for r in rows if not self._one(payloads, task.column, spans, values, there, r)]
        if task.column.absent_at_zero:
            np.equal(values, 0, out=side)
            there &= ~side
            zeros = int(np.count_nonzero(side))
        elif len(side):
            there &= ~(side & (values == 0))
        return bad, len(there) - int(np.count_nonzero(there)), zeros

    def _scratch(self, rows: int) -> npt.NDArray[np.int64]:
        """Two arrays of a number a row, good until the next call."""
        if self._numbers.shape[1] < rows:
            self._numbers = np.empty((2, 2 * rows), np.int64)
        return self._numbers[:, :rows]

    def _one(
        self, payloads: Payloads, column: Column, spans: Any, values: Any, there: Any, row: int
    ) -> bool:
        """Convert one value as the library does; whether it fits."""
        try:
            data = self._maker.value(column, self._parse(payloads.cut(spans[row])))
        except (Unfit, ValueError, msgpack.UnpackException):
            return False
        values[row] = data.values[0]
        there[row] = data.mask is None
        return True

    def _codes(
        self, payloads: Payloads, task: _Task, spans: Any, side: Any, values: Any, there: Any
    ) -> tuple[list[int], int, Fresh | None]:
        """Codes; the rows that do not fit, how many have no text, and the texts that are new."""
        if task.texts is None:
            return [], 0, self._book_sides(task, spans, values, there)
        table = task.texts
        odd, numbers = self._scratch(len(spans))
        while True:
            strange, count, missing = text_kernels.look_up(
                payloads.buffer, spans, table.keys, table.slots, table.starts, table.sizes, table.pool,
                table.codes, table.blanks, side, values, there, odd, numbers,
            )  # fmt: skip
            if not strange:
                break
            unmet = {
                payloads.cut(span)
                for span in spans[odd[:strange]]
                if int(span) >> 32 <= text_kernels.LONGEST
            }
            if not unmet:
                break
            known = self._known(task.column.dictionary)
            for raw in unmet:
                table.meet(raw, known)
        bad = odd[:strange].tolist()  # texts so long that only the library takes them
        if not count:
            return bad, missing, None
        fresh = Fresh(-1, [], [])
        for row, number in zip(
            odd[len(odd) - count :].tolist(), numbers[len(odd) - count :].tolist(), strict=True
        ):
            text = table.texts[number]
            if table.codes[number] == text_kernels.UNFIT or text is None:
                bad.append(row)
            else:
                fresh.rows.append(row)
                fresh.texts.append(text)
        return bad, missing, fresh if fresh.rows else None

    def _book_sides(self, task: _Task, spans: Any, values: Any, there: Any) -> Fresh | None:
        """The codes of a book's sides, which are no texts in the payload; and those without a code."""
        known = self._known(task.column.dictionary)
        fresh = Fresh(-1, [], [])
        there[:] = True
        for number, side in enumerate(task.sides, 1):
            rows = spans == number
            if side in known:
                values[rows] = known[side]
            else:
                fresh.rows += np.flatnonzero(rows).tolist()
        fresh.rows.sort()
        fresh.texts = [task.sides[int(spans[row]) - 1] for row in fresh.rows]
        return fresh if fresh.rows else None


def _text_key(column: Column) -> tuple[Any, ...]:
    values = None if column.values is None else tuple(column.values.items())
    return column.dictionary, column.kind, column.required, values
