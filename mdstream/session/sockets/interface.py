"""The interface of a WebSocket connection, whichever library implements it.

Both libraries deliver whole payloads, and their errors are translated to ours.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from mdstream.errors import CertificateError, ConfigError, CredentialsError, Exit, NetworkError, ServerError
from mdstream.session.retry import requested_pause
from mdstream.venues.alpaca.refusals import Place, find_rule

OPEN_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 1.0
PING_EVERY_S = 30.0
PING_TIMEOUT_S = 30.0
"""A peer that disappears without closing is noticed within the sum of both."""

Receive = Callable[[bytes, bool], bool]
"""Takes a payload, and whether it is the last of those that arrived together (False if that is not known).

Returns whether to read on; otherwise reading pauses until `Socket.resume`. Payloads that were already read
may still follow.
"""


class Socket(Protocol):
    """An open connection."""

    lost: asyncio.Future[None]
    """Done when the connection ends, with `NetworkError` or the error that `receive` raised."""

    def start(self, receive: Receive) -> None:
        """Pass all payloads, including the first one, to `receive`."""

    def send(self, message: bytes | str) -> None:
        """Send a message, bytes as binary, text as text. It is dropped if the connection is lost."""

    def resume(self) -> None:
        """Continue reading."""


def refusal_error(url: str, status: int, headers: Mapping[str, str]) -> Exception:
    """Return the error for an HTTP status instead of a WebSocket."""
    rule = find_rule(Place.UPGRADE, status)
    assert rule is not None, "the last row of the upgrade has all statuses"
    text = f"{url} answered {rule.say(status, where=headers.get('Location', '')[:200])}"
    match rule.exit:
        case Exit.CONFIG:
            return ConfigError(text, status)
        case Exit.CREDENTIALS:
            return CredentialsError(text, status)
    return ServerError(text, status, requested_pause(status, headers, time.time()))


def connect_error(url: str, error: BaseException) -> Exception:
    """Return the error for a failed attempt to connect, or for a failure of the network."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateError(
            f"the certificate of {url} does not verify: {error.verify_message}; "
            "set ca_file if the server has a private authority"
        )
    if isinstance(error, TimeoutError):
        return NetworkError(f"no connection to {url} within {OPEN_TIMEOUT_S:.0f} s")
    return NetworkError(f"cannot reach {url}: {error}")


def close_error(code: int | None, reason: str) -> NetworkError:
    """Return the error for a connection that ended; `code` is None if there was no close frame."""
    if code is None:
        return NetworkError("connection closed without a close frame")
    return NetworkError(f"closed with {code}{' ' + reason if reason else ''}")
