"""Layouts: forms of a stream's messages on the wire, learned from the messages themselves.

A message of a new layout is split once into literals and places of values (`learn_json.py`,
`learn_msgpack.py`). Then kernels recognise all messages of that form. The stream's declaration says which
value belongs to which column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mdstream.errors import UnlearnableError
from mdstream.streams.spec import LEVEL_KEYS, VARIABLE, Channel, Kind, StreamSpec
from mdstream.venues.alpaca.bodies import TYPE
from workers.kernels import ops

_MOST_LAYOUTS = 64
_MOST_STEPS = 4096
_MOST_WORDS = 16384
_MOST_ENTRIES = 1 << 16
_LONGEST_LITERAL = 1024
MOST_MEMBERS = 96

Step = tuple[bytes, int, int, int]
"""A literal, the action after it (`workers.kernels.ops`), its slot, its argument."""


class Member(NamedTuple):
    """A key of a message, and the place of its value in the buffer."""

    key: str
    start: int
    end: int
    first: int
    """The value's first byte."""


@dataclass(frozen=True, slots=True)
class ChannelSlots:
    """Slots for the spans of a channel's columns: `base` + index of the column."""

    channel: Channel
    index: int
    base: int
    by_key: dict[str, int]
    """Key on the wire → slot."""

    @property
    def sides(self) -> tuple[str, ...]:
        """Return the keys of a book's sides, in the order of their rows."""
        return tuple(self.channel.levels or ())

    def kinds_by_key(self) -> dict[str, Kind]:
        """Return key of a message → type, for what columns need without a book's levels."""
        of_levels = LEVEL_KEYS if self.sides else frozenset[str]()
        return {c.key: c.kind for c in self.channel.columns if c.key and c.key not in of_levels}

    def heads(self) -> frozenset[str]:
        """Return the members of a message that are objects with values for columns."""
        return frozenset(c.key.partition(".")[0] for c in self.channel.columns if "." in c.key)


def assign_slots(channels: Iterable[Channel]) -> dict[str, ChannelSlots]:
    """Return channel → its slots, for those of `channels` whose columns all have a fixed size."""
    found: dict[str, ChannelSlots] = {}
    base = 0
    for channel in channels:
        columns = channel.columns
        if any(c.kind in VARIABLE for c in columns):
            continue
        by_key = {c.key: base + i for i, c in enumerate(columns) if c.key}
        found[channel.name] = ChannelSlots(channel, len(found), base, by_key)
        base += len(columns)
    return found


class Shortcut(NamedTuple):
    """A layout by the keys of its messages, as `workers.kernels.keys` reads it.

    The entries, with other columns behind them; the number of values between literals, of further words to
    compare, and of keys; the bytes before the end of the first key.
    """

    entries: list[int]
    between: int
    more: int
    keys: int
    lead: int


ShortcutMaker = Callable[[Sequence[Step]], Shortcut | None]
"""Makes a shortcut from steps, if their form allows one."""


class ArrayUse(NamedTuple):
    """How much of the arrays of `Layouts` is in use."""

    known: int
    steps: int
    words: int
    items: int
    entries: int


class Layouts:
    """The layouts of one codec of one stream, as the arrays that kernels read."""

    # Written by `add`, `item` and `go_back`: the arrays, and how much of each is in use.
    words: npt.NDArray[np.uint64]
    """Literals, in 8-byte words."""
    steps: npt.NDArray[np.int64]
    layouts: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    """Forms of levels of a book."""
    entries: npt.NDArray[np.int64]
    """Entries of shortcuts."""
    known: int
    """Known layouts."""
    _steps: int
    _words: int
    _items: int
    _entries: int

    def __init__(self, spec: StreamSpec, channels: dict[str, ChannelSlots]) -> None:
        self._by_type = {
            wire_type: channels[channel.name]
            for wire_type, channel in spec.by_type.items()
            if channel.name in channels
        }
        self.words = np.zeros(_MOST_WORDS, np.uint64)
        self.steps = np.zeros((_MOST_STEPS, ops.STEP_WIDTH), np.int64)
        self.layouts = np.zeros((_MOST_LAYOUTS, ops.LAYOUT_WIDTH), np.int64)
        self.items = np.zeros((_MOST_LAYOUTS, 3, 4), np.int64)
        self.entries = np.zeros(_MOST_ENTRIES, np.int64)
        self.known = 0
        self._steps = self._words = self._items = self._entries = 0

    def slots_of(self, wire_type: str) -> ChannelSlots:
        """Return the slots of a message type. Raises `UnlearnableError` if kernels have none."""
        slots = self._by_type.get(wire_type)
        if slots is None:
            raise UnlearnableError(f"kernels know no messages of type {wire_type!r}")
        return slots

    @property
    def is_crowded(self) -> bool:
        """Return whether little room is left for another layout."""
        return (
            self.known * 4 > _MOST_LAYOUTS * 3
            or self._steps * 4 > _MOST_STEPS * 3
            or self._words * 4 > _MOST_WORDS * 3
            or self._items * 4 > _MOST_LAYOUTS * 3
            or self._entries * 4 > _MOST_ENTRIES * 3
        )

    def forget(self) -> None:
        """Drop all layouts, because the service has changed the form of its messages."""
        self.go_back(ArrayUse(0, 0, 0, 0, 0))

    def mark(self) -> ArrayUse:
        """Return the current use of the arrays."""
        return ArrayUse(self.known, self._steps, self._words, self._items, self._entries)

    def go_back(self, mark: ArrayUse) -> None:
        """Drop what was added since `mark`."""
        self.known, self._steps, self._words, self._items, self._entries = mark

    def add(self, slots: ChannelSlots, steps: list[Step], shortcut: ShortcutMaker | None = None) -> None:
        """Add a layout; its last step is the end of the message."""
        if self.known == _MOST_LAYOUTS or len(steps) > MOST_MEMBERS:
            raise UnlearnableError("no room for another layout")
        taken = {slot for _, _, slot, _ in steps}
        literal, _, _, _ = steps[-1]
        gaps = [
            (b"", ops.MISSING, slot, 0)
            for key, slot in slots.by_key.items()
            if slot not in taken and not (slots.sides and key in LEVEL_KEYS)
        ]
        # Missing columns are before the end, because only the end decides that a message fits.
        steps = [*steps[:-1], *gaps, (literal, ops.END, -1, 0)]
        if self._steps + len(steps) > _MOST_STEPS:
            raise UnlearnableError("no room for another layout")
        self.layouts[self.known] = -1
        self.layouts[self.known, : ops.START + 1] = (
            self._steps * ops.STEP_WIDTH,
            slots.index,
            min(8, len(steps[0][0])),
        )
        for literal, action, slot, argument in steps:
            self.steps[self._steps] = (self._literal(literal), len(literal), action, slot, argument, 0)
            self._steps += 1
        if shortcut is not None:
            self._shorten(shortcut(steps))
        self.known += 1

    def _shorten(self, found: Shortcut | None) -> None:
        """Store the shortcut of the next layout."""
        if found is None or self._entries + len(found.entries) > _MOST_ENTRIES:
            return
        stop = self._entries + len(found.entries)
        self.entries[self._entries : stop] = found.entries
        place = (self._entries, found.between, found.more, found.keys, found.lead)
        self.layouts[self.known, ops.ENTRIES :] = place
        self._entries = stop

    def item(self, parts: list[tuple[bytes, int, int]]) -> int:
        """Add the form of one level: two values as (literal, slot, last byte), and the final literal."""
        if self._items == _MOST_LAYOUTS:
            raise UnlearnableError("no room for another layout")
        for part, (literal, slot, last) in enumerate(parts):
            self.items[self._items, part] = (self._literal(literal), len(literal), slot, last)
        self._items += 1
        return self._items - 1

    def _literal(self, literal: bytes) -> int:
        """Store a literal; return the index of its first word."""
        first, size = self._words, -(-len(literal) // 8) or 1
        if len(literal) > _LONGEST_LITERAL or first + size > _MOST_WORDS:
            raise UnlearnableError("no room for another layout")
        self.words[first : first + size] = np.frombuffer(literal.ljust(size * 8, b"\0"), np.uint64)
        self._words += size
        return first


@dataclass(frozen=True, slots=True)
class Form:
    """The form of values in one codec."""

    opening: int
    """Bytes of a list that belong to the literal before it."""
    value: Callable[[bytes, Member, Kind | None], tuple[int, int, int]]
    """Return three facts about a value of a column's kind (None: of no column): the number of its bytes
    that belong to the literal before it, the action that finds its end, and its argument.
    """
    level: Callable[[ChannelSlots, list[bytes]], list[tuple[bytes, int, int]]]
    """Return the form of a book's levels, for `Layouts.item`, from the first level in its lists."""
    shortcut: ShortcutMaker | None = None


def lay_out(
    layouts: Layouts,
    slots: ChannelSlots,
    data: bytes,
    members: list[Member],
    form: Form,
    given: frozenset[str] = frozenset(),
) -> None:
    """Add the layout of the message `data`, whose `members` end with the message's end.

    Columns whose keys are `given` get their values from elsewhere. Raises `UnlearnableError`.
    """
    *members, last = members
    if len(members) > MOST_MEMBERS:
        raise UnlearnableError("too many keys")
    kinds = {key: kind for key, kind in slots.kinds_by_key().items() if key not in given}
    sides = [m for m in members if m.key in slots.sides]
    if [m.key for m in sides] != list(slots.sides):
        raise UnlearnableError("the sides of the book are in another order")
    item = layouts.item(form.level(slots, [data[m.start : m.end] for m in sides])) if sides else 0
    steps: list[Step] = []
    cursor = 0
    for member in members:
        slot = slots.by_key[member.key] if member.key in kinds else -1
        if member.key == TYPE and TYPE not in given:  # all messages of a layout have one type
            if slot >= 0:
                size = member.end - member.start
                steps.append((data[cursor : member.start], ops.HERE, slot, size))
                cursor = member.start
            continue
        if member.key in slots.sides:
            inside, action, slot = form.opening, ops.LEVELS, slots.by_key["side"]
            argument = item << 8 | slots.sides.index(member.key) + 1
        else:
            inside, action, argument = form.value(data, member, kinds.get(member.key))
        steps.append((data[cursor : member.start + inside], action, slot, argument))
        cursor = member.end
    if sides:
        steps.append((b"", ops.SOME, -1, 0))
    layouts.add(slots, [*steps, (data[cursor : last.end], ops.END, -1, 0)], form.shortcut)


def type_of(members: Iterable[Member]) -> Member:
    """Return the member with a message's type. Raises `UnlearnableError` if there is none."""
    for member in members:
        if member.key == TYPE:
            return member
    raise UnlearnableError("the message has no type")
