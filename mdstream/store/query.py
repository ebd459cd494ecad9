"""Parse symbols, patterns and times of a query."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from mdstream.errors import ConfigError
from mdstream.text.patterns import is_pattern
from mdstream.text.times import TimeText, parse_time_text, to_ns

if TYPE_CHECKING:
    import polars as pl

When = str | date | datetime
"""A date or a time; a string is in ISO 8601, to the nanosecond."""

_END = re.compile(r"\\[zZ]$")
"""End of the patterns of `fnmatch`, which Polars does not understand."""

_LAST_YEAR = 2261
"""Last full year whose nanoseconds fit into 64 bits."""


def matches(symbol: pl.Expr, wanted: Sequence[str]) -> pl.Expr:
    """Return an expression that is true if a symbol is one of `wanted` or matches a pattern among them."""
    found = symbol.is_in([name for name in wanted if not is_pattern(name)])
    for pattern in filter(is_pattern, wanted):
        # Python writes a second `*` as an atomic group, which the patterns of Polars neither have nor need.
        translated = fnmatch.translate(pattern).replace("(?>", "(?:")
        found |= symbol.str.contains(_END.sub("$", f"^{translated}"))
    return found


def parse_time(value: When, name: str, whole_day: bool = False, zone: tzinfo = UTC) -> int:
    """Return a date or time as nanoseconds since 1970 UTC, at most the start of 2262.

    A date, or a time without a zone, is in `zone`. With `whole_day`, a date means its end. `name` is used
    in errors. Raises `ConfigError`.
    """
    value, beyond = _parse_text(value, name) if isinstance(value, str) else TimeText(value)
    if not isinstance(value, date):
        raise ConfigError(
            f"{name}: {value!r} is not a date or time: give one, or a string such as 2026-01-05T14:30:00Z"
        )
    if value.year < 1970:
        raise ConfigError(f"{name}: {value} is before 1970; give a later time")
    if value.year > _LAST_YEAR:
        return to_ns(datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC))
    if isinstance(value, datetime):
        return to_ns(value if value.tzinfo else value.replace(tzinfo=zone)) + beyond
    day = value + timedelta(days=int(whole_day))
    return to_ns(datetime(day.year, day.month, day.day, tzinfo=zone))


def _parse_text(value: str, name: str) -> TimeText:
    try:
        return parse_time_text(value)
    except ValueError as error:
        raise ConfigError(
            f"{name}: {value!r} is not a date or time; write 2026-01-05 or 2026-01-05T14:30:00Z, with at "
            "most nine digits behind the second"
        ) from error


def to_utc(ns: int) -> datetime:
    """Return a time in UTC, to the second."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC)
