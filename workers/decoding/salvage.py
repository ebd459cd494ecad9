"""Payloads that a parser refuses as a whole, split into messages, so that a bad one costs only itself.

    payload ─► items of the array, or records of the body ─► parsed one by one ─► values and `Unreadable`

Brackets, quotes and commas (JSON) or headers (msgpack) alone say where messages begin; the bytes between
them may be anything. This is slow, so only refused payloads come here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack
import orjson

from mdstream.venues.alpaca.bodies import ONE_SYMBOL
from mdstream.venues.alpaca.short_maps import read_short_map

BOM = b"\xef\xbb\xbf"
"""The byte order mark, which some programs put before JSON. It means nothing."""

MSGPACK_ERRORS = (ValueError, TypeError, msgpack.UnpackException)
"""Errors of msgpack for bytes that it cannot read, and for maps with unhashable keys."""

TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+'
"""A JSON text without its last quote, which may be missing."""
_TOKEN = re.compile(TEXT + rb'"?|[\[\]{},]', re.DOTALL)
_KEY = re.compile(rb"\s*(" + TEXT + rb'")\s*:', re.DOTALL)
_NEXT_MESSAGE = re.compile(rb',(?=\s*\{\s*"T"\s*:)')
_CUT = "the payload ends within its messages"
_NEXT_MAP = re.compile(rb"[\x80-\x8f]\xa1T[\xa1-\xbf]")
"""The start of a message in msgpack: a map whose first key is `T`, with a text."""
_SPACE = b" \t\n\r"
_OPENER = {0x5D: 0x5B, 0x7D: 0x7B}
"""Closing bracket → the bracket that it closes."""


class Unreadable(NamedTuple):
    """A message, or what is in the place of one, that cannot be parsed."""

    data: bytes
    reason: str

    def texts(self, key: str) -> list[str]:
        """Return the texts of a key of messages in JSON; an empty list if one of them is unclear.

        There may be several messages in it. If it was cut, others may have followed.
        """
        if self.reason == _CUT:
            return []
        pattern = rb'"' + key.encode() + rb'"\s*:\s*(' + TEXT + rb'")'
        found = [parse_json(text) for text in re.findall(pattern, self.data, re.DOTALL)]
        return found if all(type(text) is str for text in found) else []


class Items(NamedTuple):
    """The items of an array or object as bytes, and the offset after its end; -1 if it does not end."""

    items: list[bytes]
    end: int


class MemberBytes(NamedTuple):
    """A member of an object: its name, and the bytes of its name and value.

    What is neither a name nor a value has no key, and is its own value.
    """

    name: str
    key: bytes
    value: bytes


Leaf = Callable[[bytes], Any]
"""Returns what takes the place of the bytes of a message."""


def parse_json(data: bytes) -> Any:
    """Parse one value; return `Unreadable` if that is not possible."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return Unreadable(data, f"not JSON: {error}")


def parse_msgpack(data: bytes) -> Any:
    """Parse one value; return `Unreadable` if that is not possible."""
    try:
        return msgpack.unpackb(data, strict_map_key=False)
    except MSGPACK_ERRORS as error:
        return Unreadable(data, f"not msgpack: {str(error) or type(error).__name__}")


def keep_bytes(data: bytes) -> Any:
    """Return the bytes themselves."""
    return data


# -- payloads of the stream


def json_messages(payload: bytes, leaf: Leaf = parse_json) -> list[Any] | None:
    """Return the messages of a payload, read by `leaf`; None if it is not an array.

    Whatever follows the array is `Unreadable` (or its bytes), and so is the rest of a payload that was cut.
    """
    rest = trim(payload)
    if not rest.startswith(b"["):
        return None
    found: list[Any] = []
    while rest.startswith(b"["):
        items, end = split_json(rest)
        if end < 0:  # cut, or it has a quote too many
            items[-1:] = _NEXT_MESSAGE.split(items[-1].removesuffix(b"]"))
            is_whole = rest.endswith(b"]") and type(parse_json(items[-1])) is dict
            tail = b"" if is_whole or type(parse_json(items[-1])) is dict else items.pop()
            found += map(leaf, _repair(items))
            return found if is_whole else [*found, _unreadable(tail, _CUT, leaf)]
        found += map(leaf, _repair(items))
        rest = rest[end:].strip(_SPACE)
        if rest.startswith(b",") and rest.endswith(b"]"):  # a bracket too many has closed the array
            rest = b"[" + rest[1:]
    if rest:
        found.append(_unreadable(rest, "bytes after the end of the messages", leaf))
    return found


def _repair(items: list[bytes]) -> list[bytes]:
    """Return items, divided as messages are.

    A bracket too many divides a message in pieces; a missing one joins it with the next.
    """
    messages: list[list[bytes]] = []  # the pieces of each
    is_bad = False
    for item in items:
        if is_bad and not item.startswith(b"{"):
            messages[-1].append(item)
            continue
        is_bad = type(parse_json(item)) is Unreadable
        messages += [[piece] for piece in (_NEXT_MESSAGE.split(item) if is_bad else [item])]
    return [b",".join(pieces) for pieces in messages]


def msgpack_messages(payload: bytes, leaf: Leaf = parse_msgpack) -> list[Any] | None:
    """Return the messages of a payload as `json_messages` does; None if it is not an array.

    After a message that cannot be followed, the next one begins where bytes look like its start.
    """
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(1, len(payload)))
    unpacker.feed(payload)
    try:
        count = unpacker.read_array_header()
    except MSGPACK_ERRORS:
        return None
    found: list[Any] = []
    end = unpacker.tell()
    while len(found) < count and end < len(payload):
        start = end
        size, why = _measure(payload[start:])
        following = _NEXT_MAP.search(payload, start + 1)
        end = start + size if size else following.start() if following else len(payload)
        if size:
            found.append(leaf(payload[start:end]))
        elif end == len(payload) and (control := read_short_map(payload[start:])) is not None:
            found.append(control)
        else:
            found.append(_unreadable(payload[start:end], why, leaf))
    if len(found) < count and type(found[-1] if found else None) is not Unreadable:
        found.append(_unreadable(b"", _CUT, leaf))
    if end < len(payload):
        found.append(_unreadable(payload[end:], "bytes after the end of the messages", leaf))
    return found


def _measure(data: bytes) -> tuple[int, str]:
    """Return the size of the first value, or 0 and why it cannot be followed."""
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(1, len(data)))
    unpacker.feed(data)
    try:
        unpacker.skip()
    except msgpack.OutOfData:
        return 0, _CUT
    except MSGPACK_ERRORS as error:
        return 0, f"not msgpack: {str(error) or type(error).__name__}"
    size = unpacker.tell()
    value = parse_msgpack(data[:size])
    if type(value) is Unreadable and _NEXT_MAP.search(data, 1, size):
        return 0, value.reason  # its header claims too much, so that it contains the next message
    return size, ""


def _unreadable(data: bytes, reason: str, leaf: Leaf) -> Any:
    return data if leaf is keep_bytes else Unreadable(data, reason)


# -- REST bodies


def read_body(data: bytes, member: str) -> tuple[dict[str, Any], bytes] | None:
    """Return a body whose records were parsed one by one, and the bytes that follow it.

    None if it is not an object, or does not end: then a part of unknown size is missing. `member` holds the
    records; if no member has this name, each member may be the record of a symbol.
    """
    rest = trim(data)
    members = _members(rest)
    if members is None:
        return None
    body, end = members
    one_symbol = ONE_SYMBOL in body
    out = {
        name: _by_symbol(raw) if name in (member, member[:-1]) and not one_symbol else _records(raw)
        for name, raw in body.items()
    }
    return out, rest[end:].strip(_SPACE)


def split_value(data: bytes) -> dict[str | int, bytes]:
    """Return the members of an object by name, or the items of a list by index, as bytes."""
    data = trim(data)
    if data.startswith(b"["):
        return dict(enumerate(split_json(data).items))
    members = _members(data)
    return dict(members[0].items()) if members else {}


def trim(data: bytes) -> bytes:
    """Return JSON text without a byte order mark and the space around it."""
    return data.removeprefix(BOM).strip(_SPACE)


def _by_symbol(raw: bytes) -> Any:
    members = _members(raw) if raw.startswith(b"{") else None
    if members is None:
        return _records(raw)
    return {name: _records(value) for name, value in members[0].items()}


def _records(raw: bytes) -> Any:
    if raw.startswith(b"["):
        items, end = split_json(raw)
        if end == len(raw):
            return [parse_json(item) for item in items]
    return parse_json(raw)


def _members(data: bytes) -> tuple[dict[str, bytes], int] | None:
    """Return the members of an object by name, and the offset after it, as `list_members` does."""
    found = list_members(data)
    return None if found is None else ({each.name: each.value for each in found[0]}, found[1])


def list_members(data: bytes) -> tuple[list[MemberBytes], int] | None:
    """Return the members of an object, and the offset after it; None if it is not one, or does not end."""
    if not data.startswith(b"{"):
        return None
    items, end = split_json(data)
    if end < 0:
        return None
    members = []
    for item in items:
        found = _KEY.match(item)
        key = parse_json(found[1]) if found else None
        if found is None or type(key) is not str:
            members.append(MemberBytes(item.decode(errors="replace"), b"", item))
        else:
            members.append(MemberBytes(key, found[1], item[found.end() :].strip(_SPACE)))
    return members, end


# -- structure


def split_json(data: bytes) -> Items:
    """Return the items of the array or object at the start of `data`.

    A closing bracket closes the brackets inside of its own, too. One that has no opening bracket belongs to
    its item. So an error in one item does not reach the next.
    """
    items: list[bytes] = []
    begin, end, last = 1, -1, len(data.rstrip(_SPACE))
    outer, stack, inner = data[0], bytearray(), {0x5B: 0, 0x7B: 0}
    for token in _TOKEN.finditer(data, 1):
        byte = data[token.start()]
        if byte in inner:
            stack.append(byte)
            inner[byte] += 1
        elif byte == 0x2C and not stack:
            items.append(data[begin : token.start()])
            begin = token.end()
        elif byte in _OPENER:
            opener = _OPENER[byte]
            while inner[opener]:
                top = stack.pop()
                inner[top] -= 1
                if top == opener:
                    break
            else:
                if opener == outer and (not stack or token.end() == last):
                    items.append(data[begin : token.start()])
                    end = token.end()
                    break
    if end < 0:
        items.append(data[begin:])
    items = [item.strip(_SPACE) for item in items]
    return Items([] if items == [b""] and end >= 0 else items, end)
