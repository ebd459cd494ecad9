"""Which names can be symbols: the one rule for settings, backfills and readers."""

from __future__ import annotations

import re

_STRANGE = re.compile(r"[^A-Za-z0-9./+=#^$&_:~@!-]")
"""A character that no symbol has: a blank, a separator, a quote, a bracket, a wildcard, a letter of another
alphabet.
"""


def why_no_symbol(name: str) -> str:
    """Return why `name` is not a symbol of any stream; empty if it may be one."""
    if not name:
        return "the symbol is empty"
    if strange := _STRANGE.search(name):
        return f"{name!r} is not a symbol: none has {strange[0]!r} (several are a list, or A,B as a string)"
    if name != name.upper():
        return f"{name!r} is not a symbol: symbols are in capitals, as {name.upper()}"
    return ""
