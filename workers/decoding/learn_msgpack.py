"""Layouts of msgpack: split one message, so that kernels know all messages of its form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack

from mdstream.errors import UnlearnableError
from mdstream.streams.spec import Kind
from workers.decoding.layouts import ChannelSlots, Form, Layouts, Member, lay_out, type_of
from workers.kernels import ops

_ERRORS = (ValueError, TypeError, msgpack.UnpackException)
"""Errors of msgpack for bytes that it cannot read, and for maps with unhashable keys."""


def learn_message(layouts: Layouts, data: bytes) -> None:
    """Learn the layout of the message `data`. Raises `UnlearnableError`."""
    members = list(members_of(data))
    kind = type_of(members)
    if not 0xA0 <= kind.first < 0xC0:
        raise UnlearnableError("the message has no type")
    slots = layouts.slots_of(data[kind.start + 1 : kind.end].decode(errors="replace"))
    lay_out(layouts, slots, data, members, _FORM)


def members_of(data: bytes) -> Iterator[Member]:
    """Return the members of the map `data`; the last one has no key and marks the map's end."""
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(1, len(data)))
    unpacker.feed(data)
    seen = set()
    try:
        for _ in range(unpacker.read_map_header()):
            key = unpacker.unpack()
            if type(key) is not str or key in seen:
                raise UnlearnableError("a key is not text, or occurs twice")
            seen.add(key)
            start = unpacker.tell()
            unpacker.skip()
            yield Member(key, start, unpacker.tell(), data[start])
    except (*_ERRORS, IndexError) as error:
        raise UnlearnableError("not a map") from error
    yield Member("", len(data), len(data), 0)


def _value(data: bytes, member: Member, kind: Kind | None) -> tuple[int, int, int]:
    return 0, ops.SKIP_VALUE if kind is None else ops.VALUE, 0


def _level(slots: ChannelSlots, lists: list[bytes]) -> list[tuple[bytes, int, int]]:
    for text in lists:
        unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(1, len(text)))
        unpacker.feed(text)
        try:
            if not unpacker.read_array_header():
                continue
            start = unpacker.tell()
            unpacker.skip()
        except _ERRORS as error:
            raise UnlearnableError("levels are missing") from error
        some = text[start : unpacker.tell()]
        *members, _ = members_of(some)
        if sorted(m.key for m in members) != ["p", "s"]:
            raise UnlearnableError("unexpected form of a level")
        parts, cursor = [], 0
        for member in members:
            parts.append((some[cursor : member.start], slots.by_key[member.key], 0))
            cursor = member.end
        return [*parts, (b"", -1, 0)]
    raise UnlearnableError("no level to learn from")


_FORM = Form(0, _value, _level)


def is_whole(data: bytes) -> bool:
    """Return whether the fallback decoder can read `data`."""
    try:
        msgpack.unpackb(data, strict_map_key=False)
    except _ERRORS:
        return False
    return True


def end_of(data: Any) -> int:
    """Return the length in bytes of the first msgpack value in `data`; 0 if it has none."""
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(1, len(data)))
    unpacker.feed(data)
    try:
        unpacker.skip()
    except _ERRORS:
        return 0
    return int(unpacker.tell())
