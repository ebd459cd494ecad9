"""The interface of a WebSocket connection, whichever library implements it.

Both libraries deliver whole payloads, and their errors are translated to ours.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from mdstream.errors import CertificateError, ConfigError, CredentialsError, NetworkError, ServerError
from mdstream.session.retry import requested_pause
from mdstream.venues.alpaca import error_codes

OPEN_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 1.0
PING_EVERY_S = 30.0
PING_TIMEOUT_S = 30.0
"""A peer that disappears without closing is noticed within the sum of both."""

Receive = Callable[[bytes], bool]
"""Takes a payload; False pauses reading until `Socket.resume`. Payloads already read may still follow."""


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
    if error_codes.is_redirect(status):
        where = headers.get("Location", "nowhere")[:200]
        return ConfigError(
            f"{url} answered HTTP {status}: redirected to {where}; if that is the server, set stream_url"
        )
    if error_codes.is_key_refused(status):
        return CredentialsError(
            f"{url} answered HTTP {status}: check APCA_API_KEY_ID and APCA_API_SECRET_KEY", status
        )
    if status >= 400 and not error_codes.is_passing(status):
        return ConfigError(
            f"{url} answered HTTP {status}: this server has no such stream; check stream_url and the feed"
        )
    return ServerError(
        f"HTTP {status} instead of a connection", status, requested_pause(status, headers, time.time())
    )


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
