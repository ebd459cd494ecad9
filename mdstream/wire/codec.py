"""Control messages to bytes and back, in the two encodings of the service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgpack
import orjson

from mdstream.errors import ServerError
from mdstream.venues.alpaca.short_maps import read_short_map

CodecName = Literal["json", "msgpack"]

# A control message is alone in its array, and `T` is its first key: a few bytes distinguish it from data,
# so that the session never parses data. (`"s"` alone is the type of a trading status.) The types are those
# of `venues.alpaca.bodies.CONTROL`. A control message without an array around it is one, too.
_JSON_USUAL = b'[{"T":"'
_JSON_CONTROL = (b'[{"T":"su', b'[{"T":"er')
_JSON_SPACED_CONTROL = re.compile(rb'\s*\[?\s*\{\s*"T"\s*:\s*"(?:su|er)').match
_ONE_MESSAGE = b"\x91"
_ARRAYS = b"\x90"
"""The first byte of an array is at least this, and that of a short map is less."""
_MSGPACK_CONTROL = (b"\xa1T\xa7success", b"\xa1T\xa5error", b"\xa1T\xacsubscription")


class JsonCodec:
    """JSON in text messages."""

    name: CodecName = "json"
    content_type = "application/json"

    def encode(self, message: Mapping[str, Any]) -> str:
        return orjson.dumps(message).decode()

    def decode(self, payload: bytes) -> list[dict[str, Any]]:
        try:
            messages = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise ServerError(f"control message is not JSON: {payload[:80]!r}") from error
        return _messages(messages, payload)

    def is_control(self, payload: bytes) -> bool:
        """Return whether `payload` is a control message, compact or with spaces."""
        if payload.startswith(_JSON_USUAL):
            return payload.startswith(_JSON_CONTROL)
        return _JSON_SPACED_CONTROL(payload) is not None


class MsgpackCodec:
    """msgpack in binary messages."""

    name: CodecName = "msgpack"
    content_type = "application/msgpack"

    def encode(self, message: Mapping[str, Any]) -> bytes:
        packed: bytes = msgpack.packb(message)
        return packed

    def decode(self, payload: bytes) -> list[dict[str, Any]]:
        try:
            messages = msgpack.unpackb(payload, strict_map_key=False)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            start = 1 if payload.startswith(_ONE_MESSAGE) else 0
            if (message := read_short_map(payload[start:])) is not None:
                return [message]
            raise ServerError(f"control message is not msgpack: {payload[:80]!r}") from error
        return _messages(messages, payload)

    def is_control(self, payload: bytes) -> bool:
        """Return whether `payload` is a control message in the service's form."""
        return payload.startswith(_MSGPACK_CONTROL, 2 if payload >= _ARRAYS else 1)


Codec = JsonCodec | MsgpackCodec

CODECS: dict[str, Codec] = {"json": JsonCodec(), "msgpack": MsgpackCodec()}


def _messages(decoded: Any, payload: bytes) -> list[dict[str, Any]]:
    if isinstance(decoded, dict):
        return [decoded]
    if not isinstance(decoded, list) or not all(isinstance(m, dict) for m in decoded):
        raise ServerError(f"expected an array of control messages, got {payload[:80]!r}")
    return decoded
