"""Error codes of the stream and HTTP statuses: what each means, and whether a retry can help.

Sources: Alpaca's documentation of the stream (2026-08), its Go client (411), older documents (408).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class About(Enum):
    """Kinds of stream errors, by what can help."""

    SYMBOL = "symbol"
    """A symbol, or the form of the request: the request as a whole is refused, the connection stays."""
    CHANNEL = "channel"
    """A channel that the stream does not have: none of its symbols will be served."""
    LIMIT = "limit"
    """More symbols than the plan allows: subscriptions stay as they were."""
    WILDCARD = "wildcard"
    """`*` where it is not allowed."""
    NOT_YET = "not yet"
    """Not authenticated, or no longer."""
    TWICE = "twice"
    """Already authenticated: header and message both arrived. Harmless."""
    PLACE = "place"
    """Another connection has the account's only place; it may leave."""
    CONNECTION = "connection"
    """This connection is lost; a new one may work."""
    ACCOUNT = "account"
    """Key, plan or encoding are wrong for this stream: final."""


class Code(NamedTuple):
    """An error code of the stream: its text and its kind."""

    text: str
    about: About


STREAM_CODES: dict[int, Code] = {
    400: Code("invalid syntax", About.SYMBOL),
    401: Code("not authenticated", About.NOT_YET),
    402: Code("auth failed", About.ACCOUNT),
    403: Code("already authenticated", About.TWICE),
    404: Code("auth timeout", About.CONNECTION),
    405: Code("symbol limit exceeded", About.LIMIT),
    406: Code("connection limit exceeded", About.PLACE),
    407: Code("slow client", About.CONNECTION),
    408: Code("v2 not enabled", About.ACCOUNT),
    409: Code("insufficient subscription", About.ACCOUNT),
    410: Code("invalid subscribe action for this feed", About.CHANNEL),
    411: Code("insufficient scope", About.ACCOUNT),
    412: Code("option messages are only available in MsgPack format", About.ACCOUNT),
    413: Code("star subscription is not allowed for option quotes", About.WILDCARD),
    500: Code("internal error", About.CONNECTION),
}


THROTTLED = 429
"""HTTP: too many requests, or too many connections."""

_LATER = frozenset({408, 425, THROTTLED})


def is_redirect(status: int) -> bool:
    return 300 <= status < 400


def is_passing(status: int) -> bool:
    """Return whether the same request may succeed later: the service is busy, throttles, or failed."""
    return status in _LATER or status >= 500


def is_key_refused(status: int, reason: str = "") -> bool:
    """Return whether HTTP `status` means that the key is refused.

    403 has two meanings: a refused key, and data that the plan does not include. In the second case the
    reason mentions the subscription.
    """
    return status == 401 or (status == 403 and "subscription" not in reason)
