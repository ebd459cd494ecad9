"""Final errors of a stream, with advice for the user."""

from __future__ import annotations

from typing import Any

from mdstream.errors import CredentialsError
from mdstream.venues.alpaca import bodies
from mdstream.venues.alpaca.auth import KEY_VARIABLE, SECRET_VARIABLE

_ADVICE = {
    402: f"check {KEY_VARIABLE} and {SECRET_VARIABLE}",
    408: "this API is not enabled for the account",
    409: "the plan does not include this feed; choose another with --feed",
    411: "the key may not read market data",
    412: 'this stream is served in msgpack only; set codec = "msgpack"',
}


def raise_if_fatal(message: dict[str, Any]) -> None:
    """Raise `CredentialsError` if `message` is an error that another attempt cannot fix."""
    code = message.get("code")
    if message.get(bodies.TYPE) == bodies.ERROR and type(code) is int and code in _ADVICE:
        raise final(code, str(message.get("msg", "")))


def final(code: int, text: str) -> CredentialsError:
    """Return the exception for error `code` with the service's `text`."""
    return CredentialsError(f"{text} ({code}): {_ADVICE[code]}", code)
