"""Layouts of JSON: split one message, so that kernels know all messages of its form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from mdstream.errors import UnlearnableError
from mdstream.streams.spec import Kind
from mdstream.venues.alpaca.bodies import SYMBOL, TYPE
from workers.decoding.layouts import ChannelSlots, Form, Layouts, Member, lay_out, type_of
from workers.decoding.shortcuts import shortcut
from workers.kernels import ops

_SPACE = re.compile(rb"[ \t\r\n]*")
_PLAIN = re.compile(rb'"([^"\\\x00-\x1f\x80-\xff]*)"')
_SIMPLE = re.compile(rb'"[^"\\\x00-\x1f]*"|-?[0-9][0-9.eE+-]*|true|false|null|\[[^][]*\]')


def members_of(
    data: bytes, start: int, heads: frozenset[str] = frozenset(), prefix: str = ""
) -> Iterator[Member]:
    """Return the members of the object at `start`; the last one has no key and spans the object's end.

    An object named in `heads` is replaced by its members, as `head.key`; a null object has none.
    """
    seen = set()
    i = start + 1
    while True:
        i = _past(_SPACE, data, i)
        key = _PLAIN.match(data, i)
        if key is None:
            raise UnlearnableError("a key is not plain")
        if key[1] in seen or b"." in key[1]:
            raise UnlearnableError("a key occurs twice")
        seen.add(key[1])
        name = key[1].decode()
        i = _past(_SPACE, data, key.end())
        if data[i : i + 1] != b":":
            raise UnlearnableError("expected a colon")
        i = _past(_SPACE, data, i + 1)
        if name in heads:
            if data[i : i + 1] == b"{":
                *inside, last = members_of(data, i, prefix=name + ".")
                yield from inside
                end = last.end
            elif data[i : i + 4] == b"null":
                end = i + 4
            else:
                raise UnlearnableError("expected an object")
        else:
            end = _past(_SIMPLE, data, i)
            if end == i:
                raise UnlearnableError("unexpected form of a value")
            yield Member(prefix + name, i, end, data[i])
        i = _past(_SPACE, data, end)
        following = data[i : i + 1]
        if following == b"}":
            yield Member("", i, i + 1, 0)
            return
        if following != b",":
            raise UnlearnableError("expected a comma")
        i += 1


def _past(pattern: re.Pattern[bytes], data: bytes, i: int) -> int:
    match = pattern.match(data, i)
    return i if match is None else match.end()


def learn_message(layouts: Layouts, data: bytes) -> None:
    """Learn the layout of the stream message that `data` begins with. Raises `UnlearnableError`."""
    if data[:1] != b"{":
        raise UnlearnableError("not an object")
    members = list(members_of(data, 0))
    kind = type_of(members)
    if kind.first != ord('"'):
        raise UnlearnableError("the message has no type")
    slots = layouts.slots_of(data[kind.start + 1 : kind.end - 1].decode(errors="replace"))
    lay_out(layouts, slots, data, members, _FORM)


def learn_record(layouts: Layouts, data: bytes, slots: ChannelSlots) -> None:
    """Learn the layout of the REST record that `data` begins with; the body names its symbol.

    Raises `UnlearnableError`.
    """
    if data[:1] != b"{":
        raise UnlearnableError("not an object")
    members = list(members_of(data, 0, slots.heads()))
    lay_out(layouts, slots, data, members, _FORM, frozenset({SYMBOL, TYPE}))


def _value(data: bytes, member: Member, kind: Kind | None) -> tuple[int, int, int]:
    if member.first == ord('"'):
        action = ops.TEXT
        if kind is None:
            action = ops.SKIP_TEXT
        elif kind is Kind.TIME:
            action = ops.SAME_LENGTH
        elif kind is Kind.CODE and member.end - member.start == 3:
            action = ops.ONE
        return 1, action, member.end - member.start - 2
    if member.first == ord("["):
        if kind is None:
            return 0, ops.SKIP_LIST, 0
        return 1, ops.LIST, member.end - member.start
    if kind is None:
        return 0, ops.SKIP_BARE, data[member.end]
    return 0, ops.SAME_BARE if kind is Kind.FLOAT else ops.BARE, data[member.end]


def _level(slots: ChannelSlots, lists: list[bytes]) -> list[tuple[bytes, int, int]]:
    opened = [text[_past(_SPACE, text, 1) :] for text in lists]
    some = next((text for text in opened if text[:1] == b"{"), None)
    if some is None or any(text[:1] != b"[" for text in lists):
        raise UnlearnableError("no level to learn from")
    *members, last = members_of(some, 0)
    if sorted(m.key for m in members) != ["p", "s"]:
        raise UnlearnableError("unexpected form of a level")
    parts, cursor = [], 0
    for member in members:
        if not (member.first == ord("-") or chr(member.first).isdigit()):
            raise UnlearnableError("a level without a number")
        parts.append((some[cursor : member.start], slots.by_key[member.key], some[member.end]))
        cursor = member.end
    return [*parts, (some[cursor : last.end], -1, 0)]


_FORM = Form(1, _value, _level, shortcut)


def is_whole(data: bytes) -> bool:
    """Return whether the fallback decoder can read `data`."""
    try:
        orjson.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def end_of(data: Any) -> int:
    """Return the length in bytes of the first JSON value in `data`; 0 if it has none."""
    try:
        text = bytes(data).decode()
        return len(text[: json.JSONDecoder().raw_decode(text)[1]].encode())
    except (ValueError, RecursionError):
        return 0
