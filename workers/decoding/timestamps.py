"""Event times as int64 nanoseconds since 1970 UTC, exact to the last digit."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgpack

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_NANOSECONDS = 1_000_000_000
_FIRST, _LAST = -(1 << 63), (1 << 63) - 1


class Timestamps:
    """Converts wire times to nanoseconds. It caches seconds, because many ticks share them."""

    _REMEMBERED = 4096

    def __init__(self) -> None:
        self._seconds: dict[str, int] = {}

    def nanoseconds(self, value: Any) -> int:
        """Convert RFC 3339 text or a msgpack timestamp to nanoseconds. Raises ValueError."""
        if type(value) is str:
            seconds = self._seconds.get(value[:19]) if value[-1:] == "Z" else None
            if seconds is not None:
                fraction = value[20:-1]
                if len(value) == 20:
                    return seconds
                if value[19] == "." and len(fraction) <= 9 and fraction.isascii() and fraction.isdigit():
                    return seconds + int(fraction.ljust(9, "0"))
            return self._parse(value)
        if type(value) is msgpack.Timestamp:
            return _check_range(value.seconds * _NANOSECONDS + value.nanoseconds, value)
        raise ValueError(f"expected a time, got {_shorten(value)}")

    def _parse(self, text: str) -> int:
        match = _RFC3339.fullmatch(text)
        if match is None:
            raise ValueError(f"not an RFC 3339 time: {_shorten(text)}")
        date, clock, fraction, offset = match.groups()
        try:
            moment = datetime.fromisoformat(f"{date}T{clock}{offset.upper()}")
        except ValueError as error:
            raise ValueError(f"not an RFC 3339 time: {_shorten(text)} ({error})") from error
        seconds = round(moment.timestamp())
        if offset == "Z":
            if len(self._seconds) >= self._REMEMBERED:
                self._seconds.clear()
            if _FIRST <= seconds * _NANOSECONDS <= _LAST - _NANOSECONDS:
                self._seconds[text[:19]] = seconds * _NANOSECONDS
        return _check_range(seconds * _NANOSECONDS + int((fraction or "").ljust(9, "0")), text)


def _check_range(nanoseconds: int, source: object) -> int:
    if not _FIRST <= nanoseconds <= _LAST:
        raise ValueError(f"time out of range: {_shorten(source)}")
    return nanoseconds


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
