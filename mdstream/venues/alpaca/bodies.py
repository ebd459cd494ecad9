"""Keys and values that messages of the stream and bodies of REST are made of.

What stands for a column is in the declarations of `mdstream.streams`; here is what is around it.
"""

from __future__ import annotations

from collections.abc import Mapping

# -- messages of the stream

TYPE = "T"
"""First key of every message."""
SYMBOL = "S"

SUCCESS, ERROR, SUBSCRIPTION = "success", "error", "subscription"
CONTROL = frozenset({SUCCESS, ERROR, SUBSCRIPTION})
"""Types of messages that are part of the conversation, and no data. They come alone in their array, with
the type first; `wire.codec` recognises them by their first bytes.
"""

CONNECTED, AUTHENTICATED = "connected", "authenticated"
"""Texts of the `success` messages."""


def is_control(message: Mapping[str, object]) -> bool:
    """Whether a message is part of the conversation."""
    wire_type = message.get(TYPE)
    return isinstance(wire_type, str) and wire_type in CONTROL


# -- bodies of REST

NEXT_PAGE_TOKEN = "next_page_token"
"""In a body: the token of the next page; null, or missing, in the last."""
ONE_SYMBOL = "symbol"
"""In a body about one symbol alone: its name. The records are a list then, not an object by symbol."""
REASON = "message"
"""In the body of an error: what is wrong."""
