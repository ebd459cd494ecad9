"""Text of others, made fit to be shown in log lines, errors, events and tables.

A server may repeat a key in its message. Each process knows the keys that it has, and shows none of them.
A text may also hold what a terminal obeys, or a line break behind which it forges a line of the log.
"""

from __future__ import annotations

from mdstream.limits import LONGEST_SHOWN

_SHORTEST = 8
"""Fewest characters of a key. Shorter ones are not secret, such as those for a simulator."""

_keys: set[str] = set()
"""The keys of this process, added by `hide`."""


def hide(*keys: str) -> None:
    """Hide `keys` in all text that this process shows from now on."""
    _keys.update(key for key in keys if len(key) >= _SHORTEST)


def mask(text: str) -> str:
    """Return `text` with dots in place of the account's keys."""
    for key in _keys:
        if key in text:
            text = text.replace(key, "•••")
    return text


def shorten(text: str, most: int = LONGEST_SHOWN) -> str:
    """Return at most the first `most` characters of `text`, and how many there were."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def clean(text: str) -> str:
    """Return `text` masked, shortened, and in one line: what is not printable is escaped, as in Python."""
    text = shorten(mask(text))
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
