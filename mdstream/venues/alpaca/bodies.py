"""Keys and values in messages of the stream and bodies of REST, except those of columns.

The keys of columns are in the declarations of `mdstream.streams`.
"""

from __future__ import annotations

import re
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


def read_code(code: object) -> int | None:
    """Return the code of an error, a number or a string of digits; None if it is neither."""
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) <= _LONGEST_CODE:
        return int(code)
    return code if type(code) is int else None


_LONGEST_CODE = 9

# -- bodies of REST

NEXT_PAGE_TOKEN = "next_page_token"
"""In a body: the token of the next page; null, or missing, in the last. See `page_token_in`."""
ONE_SYMBOL = "symbol"
"""In a body about one symbol: its name. The records are then a list, not an object by symbol."""
REASON = "message"
"""In the body of an error: what is wrong."""


_NO_TOKEN = frozenset({"", "null", "none"})


def page_token_in(body: Mapping[str, object]) -> str:
    """Return the token of the next page; empty if a body is the last one.

    Raises `ValueError` if it is neither a string nor a number.
    """
    token = body.get(NEXT_PAGE_TOKEN)
    if token is not None and type(token) not in (str, int):
        raise ValueError(f"{NEXT_PAGE_TOKEN}: expected a string, got {str(token)[:40]!r}")
    return clean_page_token("" if token is None else str(token))


def clean_page_token(token: str) -> str:
    """Return a token as it is, or nothing if its text says that there is none: `null` came as a string."""
    return "" if token.strip().lower() in _NO_TOKEN else token


_ZERO_TIME = re.compile(r"0001-01-01[Tt ]00:00:00(?:\.0{1,9})?(?:[Zz]|[+-]00:00)").fullmatch


def is_zero_time(value: object) -> bool:
    """Return whether `value` is Go's zero time, which says that the service has no such part."""
    return isinstance(value, str) and _ZERO_TIME(value) is not None
