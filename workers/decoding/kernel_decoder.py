"""Kernels for one kind of payload of one stream: pass 1, pass 2, and falling back.

payloads ─► match ─► spans ─► a column at a time ─► values, masks, codes
   ▲                                  │
   └─ again, without payloads with a ─┘ value that does not fit
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import msgpack
import numpy as np
import numpy.typing as npt
import orjson

from mdstream.errors import UnfitError
from mdstream.handoff.columns import ColumnData, ResultArea, Shape
from mdstream.streams.spec import CODED, Channel, Column, Kind, PayloadKind, StreamSpec
from workers.decoding import learn_json, learn_msgpack
from workers.decoding.bodies import BodyMatcher
from workers.decoding.columns import ColumnMaker, find_empty, find_lacking
from workers.decoding.kernel_rows import ChannelRows, Fresh
from workers.decoding.layouts import ChannelSlots, assign_slots
from workers.decoding.matching import Codec, Matched, Matcher
from workers.decoding.payloads import Payloads
from workers.decoding.texts import TextTable
from workers.kernels import columns as plans
from workers.kernels import match_json, match_msgpack, ops, values_json, values_msgpack
from workers.kernels import texts as text_kernels

CODECS = {
    PayloadKind.JSON: Codec(
        match_json.match,
        learn_json.learn_message,
        learn_json.end_of,
        learn_json.is_whole,
        lambda data: b"[" + data + b"]",
        values_json,
        by_keys=True,
    ),
    PayloadKind.MSGPACK: Codec(
        match_msgpack.match,
        learn_msgpack.learn_message,
        learn_msgpack.end_of,
        learn_msgpack.is_whole,
        lambda data: b"\x91" + data,
        values_msgpack,
        by_keys=False,
    ),
}

Known = Callable[[str], Mapping[str, int]]


_KINDS = {
    Kind.FLOAT: plans.FLOAT,
    Kind.INT: plans.INT,
    Kind.UINT: plans.UINT,
    Kind.BOOL: plans.BOOL,
    Kind.TIME: plans.TIME,
    Kind.CODE: plans.CODE16,
    Kind.CONDITIONS: plans.CODE16,
    Kind.SYMBOL: plans.CODE32,
}


def has_kernels(spec: StreamSpec, kind: PayloadKind) -> bool:
    """Return whether kernels know payloads of `kind` in this stream."""
    if kind.from_stream:
        return bool(assign_slots(spec.channels))
    channel = spec.channel_of(kind)
    return channel is not None and kind is not PayloadKind.LISTED and bool(assign_slots([channel]))


def _checked_columns(channel: Channel) -> int:
    """Return a bit for each column whose nulls may mean that a row lacks a value, or is empty."""
    nullable = (index for index, column in enumerate(channel.columns) if column.nullable)
    return sum(1 << index for index in {*channel.essentials, *(nullable if channel.has_parts else ())})


class KernelDecoder:
    """Kernels for one kind of payload of one stream."""

    # Written while batches are decoded: both learn from the messages.
    _matcher: Matcher
    """The known layouts."""
    _texts: TextTable
    """The codes of the known texts."""
    # Written by `_make_room`: arrays that each channel reuses.
    _scratch: npt.NDArray[np.uint8]
    _leftover: npt.NDArray[np.int64]
    _numbers: npt.NDArray[np.int64]
    _room: int
    """Rows that these have room for."""

    def __init__(self, spec: StreamSpec, known: Known, kind: PayloadKind) -> None:
        self._known = known
        parse: Callable[[bytes], Any] = orjson.loads
        if kind.from_stream:
            codec = CODECS[kind]
            self._channels = assign_slots(spec.channels)
            self._matcher = Matcher(spec, self._channels, codec)
            self._kernels = codec.values
            if kind is PayloadKind.MSGPACK:
                parse = partial(msgpack.unpackb, strict_map_key=False)
        else:
            channel = spec.channel_of(kind)
            assert channel is not None, "has_kernels says so"
            self._channels = assign_slots([channel])
            [slots] = self._channels.values()
            self._matcher = BodyMatcher(spec, slots, kind)
            self._kernels = values_json
        self._maker = ColumnMaker()
        self._parse = parse
        self._texts = TextTable(parse)
        self.plans = [self._plan(slots) for slots in self._channels.values()]
        self._checked = [_checked_columns(slots.channel) for slots in self._channels.values()]
        self._shapes = [Shape(slots.channel) for slots in self._channels.values()]
        self._make_room(0)

    def _plan(self, slots: ChannelSlots) -> npt.NDArray[np.int64]:
        """Return the plan of each column of a channel (`kernels.columns`)."""
        columns = slots.channel.columns
        names = [column.name for column in columns]
        plan = np.zeros((len(columns), plans.PLAN_WIDTH), np.int64)
        for index, column in enumerate(columns):
            kind, option = _KINDS[column.kind], int(column.default or column.absent_at_zero)
            if not column.key:
                kind = plans.RECEIVED
            elif slots.sides and column.key == "side":
                kind = plans.GIVEN
            elif column.kind in CODED:
                option = self._texts.owner(column)
            side = names.index(column.side_of) if column.side_of else -1
            plan[index] = kind, slots.base + index, option, side
        return plan

    @property
    def channel_slots(self) -> list[ChannelSlots]:
        """The channels, by number."""
        return list(self._channels.values())

    @property
    def known_layouts(self) -> int:
        return self._matcher.known_layouts

    @property
    def room(self) -> int:
        """Rows that spans have room for."""
        return int(self._matcher.spans.shape[1])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that kernels read, flat, with the codes of all texts that have one by now.

        They are replaced as they grow, in `decode` alone.
        """
        texts = self._texts
        texts.refresh(self._known)
        of_texts = ("keys", "slots", "starts", "sizes", "owners", "pool", "codes", "blanks")
        return self._matcher.arrays() | {name: getattr(texts, name) for name in of_texts}

    def _make_room(self, rows: int) -> None:
        """Make arrays for leftover values of columns, valid until the next channel."""
        most = max(map(len, self.plans), default=0)
        self._scratch = np.empty(plans.SCRATCH_ARRAYS * most * rows, np.uint8)
        self._leftover = np.empty(most * rows, np.int64)
        self._numbers = np.empty(most * rows, np.int64)
        self._room = rows

    def decode(
        self, payloads: Payloads, verdicts: npt.NDArray[np.uint8], area: ResultArea
    ) -> tuple[Matched, dict[str, ChannelRows]]:
        """Decode payloads whose verdict is `GOOD`, in `area` if there is room.

        The verdict of those that fall back is changed.
        """
        used = area.used
        self._texts.refresh(self._known)
        while True:
            found = self._matcher.match(payloads, verdicts)
            bad: set[int] = set()
            parts = {}
            for name, slots in self._channels.items():
                if rows := int(found.rows[slots.index]):
                    parts[name] = self._part(payloads, slots, rows, area, bad)
            if not bad:
                return found, parts
            verdicts[list(bad)] = ops.FELL_BACK
            area.used = used

    def _part(
        self, payloads: Payloads, slots: ChannelSlots, rows: int, area: ResultArea, bad: set[int]
    ) -> ChannelRows:
        """Return the columns of one channel, in `area` if there is room.

        Payloads with a row that does not fit are added to `bad`.
        """
        matcher, columns = self._matcher, len(slots.channel.columns)
        shape = self._shapes[slots.index]
        made = area.make(shape, rows)
        if made is None:
            area = ResultArea(memoryview(bytearray(shape.layout(rows).size)))
            made = area.make(shape, rows)
            assert made is not None
        payload = matcher.row_payload[slots.index, :rows]
        part = ChannelRows(made, [], payload, matcher.row_message[slots.index, :rows])
        plan = self.plans[slots.index].copy()
        counts = np.zeros((columns, plans.COUNTS_WIDTH), np.int64)
        if rows > self._room:
            self._make_room(2 * rows)
        if slots.sides:
            self._book_sides(slots, matcher.spans[slots.base : slots.base + columns, :rows], part)
        while self._convert(payloads, slots, plan, part, counts):
            pass
        for index, (left, fresh, missing, _) in enumerate(counts.tolist()):
            if left or fresh or (missing and slots.channel.columns[index].required):
                leftover = self._leftovers(payloads, slots, index, part, plan, counts)
                bad.update(payload[leftover].tolist())
            elif not missing:
                made.complete(index)
        if made.nulls & self._checked[slots.index]:
            for _, lacking in find_lacking(slots.channel, lambda index: made[index].mask):
                bad.update(payload[lacking].tolist())
            bad.update(payload[find_empty(slots.channel, lambda index: made[index].mask)].tolist())
        return part

    def _leftovers(
        self, payloads: Payloads, slots: ChannelSlots, index: int, part: ChannelRows, plan: Any, counts: Any
    ) -> list[int]:
        """Handle the kernel's leftover values of one column; return the rows that do not fit."""
        left, fresh, missing, _ = counts[index].tolist()
        column, data = slots.channel.columns[index], part.columns[index]
        rows = len(data.values)
        at = index * rows
        valid = data.mask
        if valid is None:
            below = (len(plan) + index) * rows
            valid = self._scratch[below : below + rows].view(np.bool_)
        leftover: list[int] = self._leftover[at : at + left].tolist()
        if leftover and column.kind not in CODED:  # coded texts too long for the kernel's table
            spans = self._matcher.spans[slots.base + index]
            leftover = self._fix(payloads, column, spans, data, valid, leftover)
            side = int(plan[index, plans.SIDE])
            if side >= 0 and counts[side, plans.ZEROS]:
                absent = self._scratch[side * rows : (side + 1) * rows].view(np.bool_)
                valid &= ~(absent & (data.values == 0))
            missing = rows - int(np.count_nonzero(valid))
        if fresh:
            leftover += self._fresh(part, index, at + rows - fresh, at + rows)
        if missing and column.required:
            leftover += np.flatnonzero(~valid).tolist()
        if not missing or column.kind is Kind.BOOL:
            part.columns.complete(index)
        return leftover

    def _convert(
        self, payloads: Payloads, slots: ChannelSlots, plan: Any, part: ChannelRows, counts: Any
    ) -> bool:
        """Run the kernel once; return whether it must run again because it learned something."""
        matcher, texts, made, rows = self._matcher, self._texts, part.columns, part.columns.rows
        self._kernels.convert(
            payloads.buffer,
            matcher.spans.reshape(-1),
            matcher.spans.shape[1],
            rows,
            part.payload,
            payloads.recv_ns,
            plan.reshape(-1),
            made.area.bytes,
            made.start,
            made.targets,
            self._scratch,
            texts.keys,
            texts.slots,
            texts.starts,
            texts.sizes,
            texts.owners,
            texts.pool,
            texts.codes,
            texts.blanks,
            self._leftover,
            self._numbers,
            counts.reshape(-1),
        )
        again = False
        for index, left in enumerate(counts[:, plans.LEFTOVER].tolist()):
            if not left or plan[index, plans.KIND] == plans.GIVEN:
                continue
            column, at = slots.channel.columns[index], index * rows
            spans = matcher.spans[slots.base + index, :rows]
            if column.kind in CODED:
                again |= self._learn_texts(payloads, column, spans[self._leftover[at : at + left]])
            elif column.absent_at_zero:
                self._convert_prices(payloads, column, index, spans, part, plan, counts)
                again = True
        return again

    def _learn_texts(self, payloads: Payloads, column: Column, spans: Any) -> bool:
        """Learn new texts; return whether there were any."""
        short = spans[spans >> 32 <= text_kernels.LONGEST]
        unmet = {payloads.cut(span) for span in np.unique(short)}  # a body names its symbol once
        owner, known = self._texts.owner(column), self._known(column.dictionary)
        for raw in unmet:
            self._texts.learn(raw, owner, known)
        return bool(unmet)

    def _convert_prices(
        self,
        payloads: Payloads,
        column: Column,
        index: int,
        spans: Any,
        part: ChannelRows,
        plan: Any,
        counts: Any,
    ) -> None:
        """Convert unusual prices of a quote side, before the kernel converts the side's columns again."""
        data, rows = part.columns[index], part.columns.rows
        at, left, valid = index * rows, int(counts[index, plans.LEFTOVER]), data.mask
        leftover = self._leftover[at : at + left].tolist()
        rest = self._fix(payloads, column, spans, data, valid, leftover)
        zeros = data.values == 0
        self._scratch[at : at + rows] = zeros
        valid &= ~zeros
        self._leftover[at : at + len(rest)] = rest
        missing = rows - int(np.count_nonzero(valid))
        counts[index] = len(rest), 0, missing, np.count_nonzero(zeros)
        plan[index, plans.KIND] = plans.GIVEN

    def _fix(
        self,
        payloads: Payloads,
        column: Column,
        spans: Any,
        data: ColumnData,
        valid: Any,
        leftover: list[int],
    ) -> list[int]:
        """Convert values one by one, as the fallback decoder does; return the rows that it rejects too."""
        return [r for r in leftover if not self._one(payloads, column, spans, data.values, valid, r)]

    def _fresh(self, part: ChannelRows, index: int, start: int, stop: int) -> list[int]:
        """Note texts of one column without a code; return the rows whose bytes are not a text."""
        rows, numbers = self._leftover[start:stop].astype(np.int64), self._numbers[start:stop].copy()
        texts, codes = self._texts.texts, self._texts.codes
        unfit = [
            number
            for number in np.unique(numbers).tolist()
            if codes[number] == text_kernels.UNFIT or texts[number] is None
        ]
        bad = np.isin(numbers, unfit)
        if not bad.all():
            text_of = cast("Callable[[int], str]", texts.__getitem__)
            part.fresh.append(Fresh.of(index, rows[~bad], numbers[~bad], text_of))
        return [int(row) for row in rows[bad]]

    def _one(
        self, payloads: Payloads, column: Column, spans: Any, values: Any, valid: Any, row: int
    ) -> bool:
        """Convert one value as the fallback decoder does; return whether it fits."""
        try:
            data = self._maker.value(column, self._parse(payloads.cut(spans[row])))
        except (UnfitError, ValueError, msgpack.UnpackException):
            return False
        values[row] = data.values[0]
        valid[row] = data.mask is None
        return True

    def _book_sides(self, slots: ChannelSlots, spans: Any, part: ChannelRows) -> None:
        """Write the codes of a book's sides, which have no text in payloads; note sides without a code."""
        index = next(i for i, c in enumerate(slots.channel.columns) if c.key == "side")
        names = list((slots.channel.levels or {}).values())
        known = self._known(slots.channel.columns[index].dictionary)
        unknown = np.zeros(spans.shape[1], np.bool_)
        for number, name in enumerate(names, 1):
            rows = spans[index] == number
            if name in known:
                part.columns[index].values[rows] = known[name]
            else:
                unknown |= rows
        if len(rows := np.flatnonzero(unknown)):
            part.fresh.append(Fresh.of(index, rows, spans[index, rows] - 1, names.__getitem__))
