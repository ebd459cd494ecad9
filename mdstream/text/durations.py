"""Durations as text, as people write them: `5m`, `90s`, `1h30m`, `1.5 h`."""

from __future__ import annotations

import re
from datetime import timedelta

EXAMPLES = "5m, 90s or 1h30m"

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|w)\s*")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_UNITS = {
    "ms": "milliseconds",
    "s": "seconds",
    "m": "minutes",
    "min": "minutes",
    "h": "hours",
    "d": "days",
    "w": "weeks",
}


def parse_duration(text: str) -> timedelta | None:
    """Return the duration that a text means; None if it is not one, or is too long for any clock."""
    if not _WHOLE.fullmatch(text.strip()):
        return None
    try:
        parts = (timedelta(**{_UNITS[unit]: float(count)}) for count, unit in _PART.findall(text))
        return sum(parts, timedelta())
    except OverflowError:
        return None
