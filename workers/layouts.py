"""Layouts: how messages of a stream look on the wire, learned from the messages themselves.

A message of a new layout is taken apart here once, into literals and places of values; kernels then
recognise all that look like it (`workers.kernels.match_json`, `match_msgpack`). Which value belongs to
which column stands in the stream's declaration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt
import orjson

from mdstream.streams.spec import VARIABLE, Channel, Kind, StreamSpec
from workers.kernels import ops

_MOST_LAYOUTS = 64
_MOST_STEPS = 4096
_MOST_WORDS = 16384
_MOST_MEMBERS = 96


class Unlearnable(ValueError):
    """A message that kernels cannot follow: the library will see to it."""


class Member(NamedTuple):
    """One key of a message and its value, as places in the buffer."""

    key: str
    start: int
    end: int
    first: int
    """The value's first byte."""


@dataclass(frozen=True, slots=True)
class Table:
    """Where the columns of one channel have their spans: slot `base` + index of the column."""

    channel: Channel
    index: int
    base: int
    slots: dict[str, int]
    """Key on the wire → slot."""

    @property
    def sides(self) -> tuple[str, ...]:
        """The keys of a book's levels, in the order in which their rows come."""
        return tuple(self.channel.levels or ())

    def wanted(self) -> dict[str, Kind]:
        """The keys of a message that columns want; those of a book's levels are not the message's."""
        of_levels = {"p", "s", "side"} if self.sides else set[str]()
        return {c.key: c.kind for c in self.channel.columns if c.key and c.key not in of_levels}


def tables_of(spec: StreamSpec) -> dict[str, Table]:
    """Channel → its table, for the channels whose columns are all of a fixed size."""
    tables: dict[str, Table] = {}
    base = 0
    for channel in spec.channels:
        columns = channel.columns
        if any(c.kind in VARIABLE for c in columns):
            continue
        slots = {c.key: base + i for i, c in enumerate(columns) if c.key}
        tables[channel.name] = Table(channel, len(tables), base, slots)
        base += len(columns)
    return tables


class Layouts:
    """The layouts of one codec of one stream, as the arrays that kernels read."""

    # The mutable state: the arrays, and how much of each is in use.

    def __init__(self, spec: StreamSpec, tables: dict[str, Table]) -> None:
        self._by_type = {
            wire_type: tables[channel.name]
            for wire_type, channel in spec.by_type.items()
            if channel.name in tables
        }
        self.words: npt.NDArray[np.uint64] = np.zeros(_MOST_WORDS, np.uint64)
        self.steps: npt.NDArray[np.int64] = np.zeros((_MOST_STEPS, ops.STEP_WIDTH), np.int64)
        self.layouts: npt.NDArray[np.int64] = np.zeros((_MOST_LAYOUTS, ops.LAYOUT_WIDTH), np.int64)
        self.items: npt.NDArray[np.int64] = np.zeros((_MOST_LAYOUTS, 3, 4), np.int64)
        self.known = 0
        self._steps = self._words = self._items = 0

    def table(self, wire_type: str) -> Table:
        """The table of a message type. Raises `Unlearnable` where kernels have none."""
        table = self._by_type.get(wire_type)
        if table is None:
            raise Unlearnable(f"no kernel for messages of type {wire_type!r}")
        return table

    def forget(self) -> None:
        """Start anew: the service has come to write otherwise."""
        self.known = self._steps = self._words = self._items = 0

    def add(self, table: Table, steps: list[tuple[bytes, int, int, int]]) -> None:
        """Add a layout of (literal, action, slot, argument) steps."""
        if self.known == _MOST_LAYOUTS or len(steps) > _MOST_MEMBERS:
            raise Unlearnable("no room")
        taken = {slot for _, _, slot, _ in steps}
        literal, _, _, _ = steps[-1]
        gaps = [
            (b"", ops.MISSING, slot, 0)
            for key, slot in table.slots.items()
            if slot not in taken and not (table.sides and key in ("p", "s", "side"))
        ]
        # Missing columns come before the end, which alone says that a message fits.
        steps = [*steps[:-1], *gaps, (literal, ops.END, -1, 0)]
        needed = sum(-(-len(literal) // 8) or 1 for literal, _, _, _ in steps)
        if self._steps + len(steps) > _MOST_STEPS or self._words + needed > _MOST_WORDS:
            raise Unlearnable("no room")
        self.layouts[self.known] = (
            self._steps * ops.STEP_WIDTH,
            table.index,
            min(8, len(steps[0][0])),
        )
        for literal, action, slot, argument in steps:
            self.steps[self._steps] = (self._literal(literal), len(literal), action, slot, argument)
            self._steps += 1
        self.known += 1

    def item(self, parts: list[tuple[bytes, int, int]]) -> int:
        """Add the form of one level: two values as (literal, slot, last byte), and what ends it."""
        if self._items == _MOST_LAYOUTS or self._words + 96 > _MOST_WORDS:
            raise Unlearnable("no room")
        for part, (literal, slot, last) in enumerate(parts):
            self.items[self._items, part] = (self._literal(literal), len(literal), slot, last)
        self._items += 1
        return self._items - 1

    def _literal(self, literal: bytes) -> int:
        """Keep a literal; the index of its first word."""
        first, size = self._words, -(-len(literal) // 8) or 1
        self.words[first : first + size] = np.frombuffer(literal.ljust(size * 8, b"\0"), np.uint64)
        self._words += size
        return first


_SPACE = re.compile(rb"[ \t\r\n]*")
_PLAIN = re.compile(rb'"([^"\\\x00-\x1f\x80-\xff]*)"')
_SIMPLE = re.compile(rb'"[^"\\\x00-\x1f]*"|-?[0-9][0-9.eE+-]*|true|false|null|\[[^][]*\]')


def json_members(data: bytes, start: int) -> Iterator[Member]:
    """The members of the object at `start`; last, one without a key that spans its end."""
    i = start + 1
    while True:
        i = _past(_SPACE, data, i)
        key = _PLAIN.match(data, i)
        if key is None:
            raise Unlearnable("no plain key")
        i = _past(_SPACE, data, key.end())
        if data[i : i + 1] != b":":
            raise Unlearnable("no colon")
        i = _past(_SPACE, data, i + 1)
        end = _past(_SIMPLE, data, i)
        if end == i:
            raise Unlearnable("a value of another form")
        yield Member(key[1].decode(), i, end, data[i])
        i = _past(_SPACE, data, end)
        following = data[i : i + 1]
        if following == b"}":
            yield Member("", i, i + 1, 0)
            return
        if following != b",":
            raise Unlearnable("no comma")
        i += 1


def _past(pattern: re.Pattern[bytes], data: bytes, i: int) -> int:
    match = pattern.match(data, i)
    return i if match is None else match.end()


def learn_json(layouts: Layouts, data: bytes) -> None:
    """Learn the layout of the JSON message that `data` begins with. Raises `Unlearnable`."""
    if data[:1] != b"{":
        raise Unlearnable("no object")
    *members, last = json_members(data, 0)
    keys = [member.key for member in members]
    if len(set(keys)) < len(keys) or len(keys) > _MOST_MEMBERS:
        raise Unlearnable("a key stands twice, or there are too many")
    of_type = next((m for m in members if m.key == "T"), None)
    if of_type is None or of_type.first != ord('"'):
        raise Unlearnable("no type")
    table = layouts.table(data[of_type.start + 1 : of_type.end - 1].decode(errors="replace"))
    kinds = table.wanted()
    steps: list[tuple[bytes, int, int, int]] = []
    cursor = 0
    sides = [m for m in members if m.key in table.sides]
    if [m.key for m in sides] != list(table.sides):
        raise Unlearnable("the sides of a book in another order")
    item = _json_item(layouts, table, [data[m.start : m.end] for m in sides]) if sides else 0
    for member in members:
        slot = table.slots[member.key] if member.key in kinds else -1
        start, end = member.start, member.end
        if member.key == "T":
            if slot >= 0:
                steps.append((data[cursor:start], ops.HERE, slot, end - start))
                cursor = start
            continue
        if member.key in table.sides:
            inside, action, slot = 1, ops.LEVELS, table.slots["side"]
            argument = item << 8 | table.sides.index(member.key) + 1
        else:
            inside, action = _json_action(member, kinds.get(member.key))
            argument = end - start - 2 if inside else data[end]
        steps.append((data[cursor : start + inside], action, slot, argument))
        cursor = end
    if sides:
        steps.append((b"", ops.SOME, -1, 0))
    layouts.add(table, [*steps, (data[cursor : last.end], ops.END, -1, 0)])


def _json_action(member: Member, kind: Kind | None) -> tuple[int, int]:
    """How many bytes of a value belong to the literal before it, and how its end is found."""
    if member.first == ord('"'):
        if kind is None:
            return 1, ops.SKIP_TEXT
        return 1, ops.SAME_LENGTH if kind is Kind.TIME else ops.TEXT
    if member.first == ord("["):
        if kind is None:
            raise Unlearnable("an array that no column wants")
        return 1, ops.LIST
    return 0, ops.SKIP_BARE if kind is None else ops.BARE


def _json_item(layouts: Layouts, table: Table, lists: list[bytes]) -> int:
    """The form of a book's levels, by the first one there is."""
    some = next((text[1:] for text in lists if text[1:2] == b"{"), None)
    if some is None or any(text[:1] != b"[" for text in lists):
        raise Unlearnable("no level to learn from")
    *members, last = json_members(some, 0)
    if sorted(m.key for m in members) != ["p", "s"]:
        raise Unlearnable("levels of another form")
    parts, cursor = [], 0
    for member in members:
        if not (member.first == ord("-") or chr(member.first).isdigit()):
            raise Unlearnable("a level without a number")
        parts.append((some[cursor : member.start], table.slots[member.key], some[member.end]))
        cursor = member.end
    return layouts.item([*parts, (some[cursor : last.end], -1, 0)])


def learn_msgpack(layouts: Layouts, data: bytes) -> None:
    """Learn the layout of the msgpack message `data`. Raises `Unlearnable`."""
    *members, last = msgpack_members(data)
    keys = [member.key for member in members]
    if len(set(keys)) < len(keys) or len(keys) > _MOST_MEMBERS:
        raise Unlearnable("a key stands twice, or there are too many")
    of_type = next((m for m in members if m.key == "T"), None)
    if of_type is None or not 0xA0 <= of_type.first < 0xC0:
        raise Unlearnable("no type")
    table = layouts.table(data[of_type.start + 1 : of_type.end].decode(errors="replace"))
    wanted = table.wanted()
    steps: list[tuple[bytes, int, int, int]] = []
    cursor = 0
    sides = [m for m in members if m.key in table.sides]
    if [m.key for m in sides] != list(table.sides):
        raise Unlearnable("the sides of a book in another order")
    item = _msgpack_item(layouts, table, [data[m.start : m.end] for m in sides]) if sides else 0
    for member in members:
        slot = table.slots[member.key] if member.key in wanted else -1
        start, end = member.start, member.end
        literal = data[cursor:start]
        cursor = end
        if member.key == "T":
            if slot >= 0:
                steps.append((literal, ops.HERE, slot, end - start))
                cursor = start
            else:
                cursor = start - len(literal)
        elif member.key in table.sides:
            argument = item << 8 | table.sides.index(member.key) + 1
            steps.append((literal, ops.LEVELS, table.slots["side"], argument))
        else:
            steps.append((literal, ops.SKIP_VALUE if slot < 0 else ops.VALUE, slot, 0))
    if sides:
        steps.append((b"", ops.SOME, -1, 0))
    layouts.add(table, [*steps, (data[cursor : last.end], ops.END, -1, 0)])


def msgpack_members(data: bytes) -> Iterator[Member]:
    """The members of the map that `data` is; last, one without a key that marks its end."""
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(1, len(data)))
    unpacker.feed(data)
    try:
        for _ in range(unpacker.read_map_header()):
            key = unpacker.unpack()
            if type(key) is not str:
                raise Unlearnable("a key that is no text")
            start = unpacker.tell()
            unpacker.skip()
            yield Member(key, start, unpacker.tell(), data[start])
    except (ValueError, msgpack.UnpackException, IndexError) as error:
        raise Unlearnable("no map") from error
    yield Member("", len(data), len(data), 0)


def _msgpack_item(layouts: Layouts, table: Table, lists: list[bytes]) -> int:
    """The form of a book's levels, by the first one there is."""
    for text in lists:
        unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(1, len(text)))
        unpacker.feed(text)
        try:
            if not unpacker.read_array_header():
                continue
            start = unpacker.tell()
            unpacker.skip()
        except (ValueError, msgpack.UnpackException) as error:
            raise Unlearnable("no levels") from error
        some = text[start : unpacker.tell()]
        *members, _ = msgpack_members(some)
        if sorted(m.key for m in members) != ["p", "s"]:
            raise Unlearnable("levels of another form")
        parts, cursor = [], 0
        for member in members:
            parts.append((some[cursor : member.start], table.slots[member.key], 0))
            cursor = member.end
        return layouts.item([*parts, (b"", -1, 0)])
    raise Unlearnable("no level to learn from")


def is_msgpack(data: bytes) -> bool:
    """Whether the library can read `data`."""
    try:
        msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return False
    return True


def msgpack_end(data: Any) -> int:
    """How many bytes of `data` its first msgpack value takes; 0 if it has none."""
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(1, len(data)))
    unpacker.feed(data)
    try:
        unpacker.skip()
    except (ValueError, msgpack.UnpackException):
        return 0
    return int(unpacker.tell())


def is_json(data: bytes) -> bool:
    """Whether the library can read `data`."""
    try:
        orjson.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def json_end(data: Any) -> int:
    """How many bytes of `data` its first JSON value takes; 0 if it has none."""
    try:
        return json.JSONDecoder().raw_decode(bytes(data).decode())[1]
    except (ValueError, RecursionError):
        return 0
