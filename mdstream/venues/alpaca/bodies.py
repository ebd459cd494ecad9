"""Keys and values in messages of the stream and bodies of REST, except those of columns.

The keys of columns are in the declarations of `mdstream.streams`.
"""

from __future__ import annotations

from collections.abc import Mapping

# -- messages of the stream

TYPE = "T"
"""First key of every message."""
SYMBOL = "S"

SUCCESS, ERROR, SUBSCRIPTION = "success", "error", "subscription"
CONTROL = frozenset({SUCCESS, ERROR, SUBSCRIPTION})
"""Types of control messages. Such a message is alone in its array, with the type first; `wire.codec`
recognises it by its first bytes.
"""

CONNECTED, AUTHENTICATED = "connected", "authenticated"
"""Texts of the `success` messages."""


def is_control(message: Mapping[str, object]) -> bool:
    """Return whether a message is a control message."""
    wire_type = message.get(TYPE)
    return isinstance(wire_type, str) and wire_type in CONTROL


# -- bodies of REST

NEXT_PAGE_TOKEN = "next_page_token"
"""In a body: the token of the next page; null, or missing, in the last."""
ONE_SYMBOL = "symbol"
"""In a body about one symbol: its name. The records are then a list, not an object by symbol."""
REASON = "message"
"""In the body of an error: what is wrong."""
