"""Final errors of a stream, with advice for the user."""

from __future__ import annotations

from typing import Any

from mdstream.errors import CredentialsError
from mdstream.venues.alpaca import bodies
from mdstream.venues.alpaca.refusals import Place, RefusalKind, Rule, find_rule


def raise_if_fatal(message: dict[str, Any]) -> None:
    """Raise `CredentialsError` if `message` is an error about the key or the plan."""
    code = message.get("code")
    if message.get(bodies.TYPE) == bodies.ERROR and type(code) is int:
        rule = find_rule(Place.STREAM, code)
        if rule is not None and rule.before is RefusalKind.FINAL:
            raise final(rule, code, str(message.get("msg", "")))


def final(rule: Rule, code: int, text: str) -> CredentialsError:
    """Return the exception for error `code` with the service's `text`."""
    return CredentialsError(rule.say(code, text), code)
