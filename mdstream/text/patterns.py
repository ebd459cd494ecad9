"""Patterns of names: `*` is any text, `?` any character, `[AB]` A or B."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

_FIRST_SIGN = re.compile(r"[*?[]")


def is_pattern(name: str) -> bool:
    """Return whether a name has wildcards: `*`, `?` or `[…]`."""
    return _FIRST_SIGN.search(name) is not None


def stem_of(pattern: str) -> str:
    """Return the text before the first wildcard."""
    return _FIRST_SIGN.split(pattern, maxsplit=1)[0]


def find_matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that match a pattern."""
    return [name for name in names if fnmatchcase(name, pattern)]
