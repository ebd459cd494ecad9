"""Control messages whose msgpack map is shorter than its header says.

The overnight feed acknowledges subscriptions with a map of 8 members by its header, of which 3 follow. The
channels that are missing have no symbols.
"""

from __future__ import annotations

from typing import Any

import msgpack

from mdstream.venues.alpaca.bodies import is_control


def read_short_map(data: bytes) -> dict[str, Any] | None:
    """Return the control message at `data`, a map that ends with its bytes; None if it is not one.

    The bytes must end after a whole member: a message that was cut elsewhere is damaged.
    """
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(1, len(data)))
    unpacker.feed(data)
    message: dict[str, Any] = {}
    try:
        members = unpacker.read_map_header()
        while unpacker.tell() < len(data) and len(message) < members:
            key = unpacker.unpack()
            message[key] = unpacker.unpack()
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return message if unpacker.tell() == len(data) and is_control(message) else None
