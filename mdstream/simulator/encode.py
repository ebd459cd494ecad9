"""Messages to bytes, in the service's forms.

JSON is as Go writes it: `<`, `>` and `&` escaped, whole floats without a fraction, times with up to nine
digits and no trailing zeros. msgpack has times as the timestamp extension. WebSocket frames are made here
too, so that payloads that are sent many times are encoded once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgpack
import orjson

_NANOSECONDS = 1_000_000_000


class Time(int):
    """Nanoseconds since 1970 UTC, which each encoding writes in its own form."""


def rfc3339(nanoseconds: int) -> str:
    """Return a time as `2024-03-12T10:38:50.79613221Z`: no trailing zeros, no fraction if it is zero."""
    seconds, fraction = divmod(nanoseconds, _NANOSECONDS)
    text = _second(seconds)
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


_seconds: dict[int, str] = {}


def _second(seconds: int) -> str:
    text = _seconds.get(seconds)
    if text is None:
        if len(_seconds) > 10_000:
            _seconds.clear()
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _seconds[seconds] = text
    return text


def _json_ready(value: Any) -> Any:
    kind = type(value)
    if kind is Time:
        return rfc3339(value)
    if kind is float:
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if kind is dict:
        return {k: _json_ready(v) for k, v in value.items()}
    if kind is list:
        return [_json_ready(v) for v in value]
    return value


def to_json(value: Any) -> bytes:
    data = orjson.dumps(_json_ready(value))
    if b"&" in data or b"<" in data or b">" in data:
        data = data.replace(b"&", b"\\u0026").replace(b"<", b"\\u003c").replace(b">", b"\\u003e")
    return data


def _msgpack_ready(value: Any) -> Any:
    kind = type(value)
    if kind is Time:
        return msgpack.Timestamp(*divmod(int(value), _NANOSECONDS))
    if kind is dict:
        return {k: _msgpack_ready(v) for k, v in value.items()}
    if kind is list:
        return [_msgpack_ready(v) for v in value]
    return value


def to_msgpack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(_msgpack_ready(value))
    return packed


def json_payload(messages: Sequence[bytes]) -> bytes:
    """Return one payload of encoded messages."""
    return b"[" + b",".join(messages) + b"]"


def msgpack_payload(messages: Sequence[bytes]) -> bytes:
    """Return one payload of encoded messages."""
    count = len(messages)
    if count < 16:
        head = bytes([0x90 | count])
    elif count < 1 << 16:
        head = b"\xdc" + struct.pack(">H", count)
    else:
        head = b"\xdd" + struct.pack(">I", count)
    return head + b"".join(messages)


class Encoding:
    """One of the two encodings, for messages and payloads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.binary = name == "msgpack"
        self.message: Callable[[Any], bytes] = to_msgpack if self.binary else to_json
        self.payload = msgpack_payload if self.binary else json_payload

    def wrap(self, payload: bytes) -> bytes:
        """Return `payload` as a whole WebSocket message from a server: final, and not masked."""
        opcode = b"\x82" if self.binary else b"\x81"
        length = len(payload)
        if length < 126:
            return opcode + bytes([length]) + payload
        if length < 1 << 16:
            return opcode + b"\x7e" + struct.pack(">H", length) + payload
        return opcode + b"\x7f" + struct.pack(">Q", length) + payload


ENCODINGS = {name: Encoding(name) for name in ("json", "msgpack")}
