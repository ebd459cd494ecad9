"""What the protocol reports to the session."""

from __future__ import annotations

from typing import NamedTuple

from mdstream.wire.subscription import Refusal


class Ready(NamedTuple):
    """Authenticated; all requests are acknowledged or refused."""


class Refused(NamedTuple):
    """Subscriptions that the server refuses. Repeated refusals are not reported again."""

    refusals: tuple[Refusal, ...]


class Waiting(NamedTuple):
    """The server cannot authenticate us now; the session tries again on the same connection."""

    reason: str


class Note(NamedTuple):
    """A text to log, with no effect on the session."""

    text: str


ProtocolEvent = Ready | Refused | Waiting | Note
