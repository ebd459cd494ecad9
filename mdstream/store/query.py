"""What a range of a dataset may be given as: symbols, patterns, times."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from mdstream.errors import ConfigError

_LAST_YEAR = 2261
"""The last whole one that has nanoseconds in 64 bits."""


def as_list(symbols: str | Sequence[str]) -> list[str]:
    """Symbols as a list; a text alone is one symbol, as readers of frames take it."""
    return [symbols] if isinstance(symbols, str) else list(symbols)


def is_pattern(symbol: str) -> bool:
    """Whether a symbol has wildcards: `*`, `?` or `[…]`."""
    return any(sign in symbol for sign in "*?[")


def parse_time(value: str | date | datetime, name: str, whole_day: bool = False) -> int:
    """Nanoseconds since 1970 of a date or a time, at most 2262's first. Raises `ConfigError`."""
    if isinstance(value, str):
        value = _parsed(value, name)
    if value.year < 1970:
        raise ConfigError(f"{name}: {value} is before 1970, and nothing is so old")
    if value.year > _LAST_YEAR:
        return to_ns(datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC))
    if isinstance(value, datetime):
        return to_ns(value if value.tzinfo else value.replace(tzinfo=UTC))
    day = datetime(value.year, value.month, value.day, tzinfo=UTC)
    return to_ns(day + timedelta(days=int(whole_day)))


def _parsed(value: str, name: str) -> date | datetime:
    with contextlib.suppress(ValueError):
        return date.fromisoformat(value)  # of any form, as 20260105: a date is a whole day
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise ConfigError(
            f"{name}: {value!r} is no time; write 2026-01-05 or 2026-01-05T14:30:00Z"
        ) from error


def parse_day(value: str | date | datetime) -> date:
    """The UTC day of a start. Raises `ConfigError`."""
    return utc(parse_time(value, "start")).date()


def utc(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC)


def to_ns(when: datetime) -> int:
    return round(when.timestamp() * 1_000_000) * 1000
