"""Bars of the service: timeframes, their lengths, adjustments."""

from __future__ import annotations

import re
from datetime import timedelta

from mdstream.errors import ConfigError

_MINUTE_NS = 60 * 1_000_000_000
_CLOCK_CHANGE_NS = 60 * _MINUTE_NS
"""A day may have 25 hours."""


ADJUSTMENTS = ("raw", "split", "dividend", "spin-off", "all")

_UNITS = {
    "Min": (1, range(1, 60)),
    "Hour": (60, range(1, 24)),
    "Day": (1440, (1,)),
    "Week": (10_080, (1,)),
    "Month": (44_640, (1, 2, 3, 4, 6, 12)),
}
"""Unit of a timeframe → its minutes, and the accepted counts."""

_OFFERED = "write 1Min to 59Min, 1Hour to 23Hour, 1Day, 1Week, or Month after 1, 2, 3, 4, 6 or 12"

_TIMEFRAME = re.compile(r"(\d+)(Min|Hour|Day|Week|Month)")


def minutes_of(timeframe: str) -> int:
    """Return the minutes of a timeframe. Raises `ConfigError` if the service does not have it."""
    found = _TIMEFRAME.fullmatch(timeframe)
    if found:
        minutes, offered = _UNITS[found[2]]
        if int(found[1]) in offered:
            return int(found[1]) * minutes
    raise ConfigError(f"{timeframe!r} is not a timeframe; {_OFFERED}")


def name_timeframe(length: timedelta) -> str:
    """Return the timeframe whose bars have this length: 1Hour for 60 minutes. Raises `ConfigError`."""
    for unit in ("Week", "Day", "Hour", "Min"):
        minutes, offered = _UNITS[unit]
        count, rest = divmod(length, timedelta(minutes=minutes))
        if not rest and count in offered:
            return f"{count}{unit}"
    raise ConfigError(f"timeframe: no bars of the service have a length of {length}; {_OFFERED}")


def length_ns(timeframe: str) -> int:
    """Return the length of the longest bar of a timeframe, in ns."""
    minutes = minutes_of(timeframe)
    return minutes * _MINUTE_NS + (_CLOCK_CHANGE_NS if is_day_or_longer(timeframe) else 0)


def is_day_or_longer(timeframe: str) -> bool:
    """Return whether bars of a timeframe are of a day, a week or months."""
    return minutes_of(timeframe) >= _UNITS["Day"][0]
