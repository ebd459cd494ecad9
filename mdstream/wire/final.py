"""Final errors of a stream, with advice for the user."""

from __future__ import annotations

from typing import Any

from mdstream.errors import CredentialsError
from mdstream.text.masking import clean
from mdstream.venues.alpaca import bodies
from mdstream.venues.alpaca.refusals import Place, RefusalKind, Rule, find_rule


def find_error(message: dict[str, Any]) -> tuple[Rule | None, int, str]:
    """Return the rule for an error message, its code (0: none that can be read) and its text.

    Without a rule, the text says that the error is unknown.
    """
    code, text = bodies.read_code(message.get("code")), clean(str(message.get("msg", "")))
    rule = None if code is None else find_rule(Place.STREAM, code)
    if rule is None:
        text = f"unknown error {clean(str(message.get('code')))}: {text}"
    return rule, code or 0, text


def raise_if_fatal(message: dict[str, Any]) -> str:
    """Raise `CredentialsError` if `message` is an error about the key or the plan.

    Return the sentence for the user if it is another error; otherwise nothing.
    """
    if message.get(bodies.TYPE) != bodies.ERROR:
        return ""
    rule, code, text = find_error(message)
    if rule is not None and rule.before is RefusalKind.FINAL:
        raise final(rule, code, text)
    return rule.say(code, text) if rule else text


def final(rule: Rule, code: int, text: str) -> CredentialsError:
    """Return the exception for error `code` with the service's `text`."""
    return CredentialsError(rule.say(code, text), code)
