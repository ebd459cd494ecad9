"""The account's keys, hidden wherever text of others is shown: in log lines, errors and events.

A server may repeat a key in its message. Each process knows the keys that it has, and shows none of them.
"""

from __future__ import annotations

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
