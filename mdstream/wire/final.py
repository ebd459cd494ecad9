"""Errors of a stream that no further attempt can mend, and what can be done about each."""

from __future__ import annotations

from typing import Any

from mdstream.errors import CredentialsError

_ADVICE = {
    402: "check APCA_API_KEY_ID and APCA_API_SECRET_KEY",
    408: "this API is not enabled for the account",
    409: "the plan does not include this feed; choose another with --feed",
    411: "the key may not read market data",
    412: 'this stream is served in msgpack only; set codec = "msgpack"',
}


def raise_if_fatal(message: dict[str, Any]) -> None:
    """Raise `CredentialsError` if `message` is an error that no further attempt can mend."""
    code = message.get("code")
    if message.get("T") == "error" and type(code) is int and code in _ADVICE:
        raise final(code, str(message.get("msg", "")))


def final(code: int, text: str) -> CredentialsError:
    """The exception for error `code`, which the service explained with `text`."""
    return CredentialsError(f"{text} ({code}): {_ADVICE[code]}", code)
