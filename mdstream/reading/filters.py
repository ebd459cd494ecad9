"""Some rows of a frame: those of some symbols, those since a time. Times and durations of readers."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import SupportsFloat, TypedDict

import polars as pl

from mdstream.errors import ConfigError
from mdstream.reading import market_sessions
from mdstream.reading.arguments import list_symbols
from mdstream.reading.zones import EXAMPLE, Zone
from mdstream.text.durations import EXAMPLES, parse_duration
from mdstream.text.times import TimeText, parse_time_text, to_ns

Since = date | timedelta | int | str
"""A datetime with its time zone or a date in UTC (also as a string in ISO 8601), a duration before now
(also as a string, `5m`), or ns since 1970 UTC.
"""


class FrameArguments(TypedDict, total=False):
    """The arguments of `Attachment.frame`, which describes them."""

    symbols: str | Sequence[str] | None
    since: Since | None
    session: str | Sequence[str] | None
    tz: Zone | None


_LEAST_NS = 946_684_800 * 10**9
"""Start of 2000. A smaller number is a mistake, such as seconds or milliseconds."""

_LONGEST_S = int(threading.TIMEOUT_MAX)
"""About 292 years."""

_TIMES = ("ts", "created_at", "recv_ts")
"""Columns that hold the time of a row; the first one that a frame has counts."""


def filter_rows(
    frame: pl.DataFrame,
    symbols: str | Sequence[str] | None = None,
    since: Since | None = None,
    zone: tzinfo | None = None,
) -> pl.DataFrame:
    """Return the rows of `symbols` whose time is not before `since`; None keeps all.

    `zone` is that of a `since` without one. Raises `ConfigError` for a value of another type, and for a
    frame without such a column.
    """
    if symbols is not None:
        frame = frame.filter(_has_symbol(frame, list_symbols(symbols)))
    if since is not None:
        frame = frame.filter(pl.col(_time_column(frame)).to_physical() >= to_nanoseconds(since, zone))
    return frame


def keep_sessions(frame: pl.DataFrame, names: str | Sequence[str] | None, name: str) -> pl.DataFrame:
    """Return the rows of the frame `name` that are in one of these sessions of its market; None keeps all.

    Raises `UnknownNameError` for another session, and `ConfigError` for a frame without a time.
    """
    if names is None:
        return frame
    return market_sessions.keep_sessions(frame.lazy(), name, _time_column(frame), names).collect()


def _has_symbol(frame: pl.DataFrame, symbols: list[str]) -> pl.Expr:
    if "symbol" in frame.columns:
        return pl.col("symbol").is_in(symbols)
    if "symbols" in frame.columns:
        return pl.col("symbols").list.set_intersection(symbols).list.len() > 0
    raise ConfigError("symbols: this frame has no column with symbols")


def _time_column(frame: pl.DataFrame) -> str:
    for name in _TIMES:
        if name in frame.columns:
            return name
    for name, dtype in frame.schema.items():
        if isinstance(dtype, pl.Datetime):
            return name
    raise ConfigError("since: this frame has no column with times")


def _parse(text: str) -> timedelta | TimeText:
    if (before_now := parse_duration(text)) is not None:
        return before_now
    try:
        return parse_time_text(text)
    except ValueError:
        raise ConfigError(
            f"since: {text!r} is neither a duration before now ({EXAMPLES}) nor a time (2026-01-05 or "
            "2026-01-05T14:30:00Z, with at most nine digits behind the second)"
        ) from None


def to_nanoseconds(since: Since, zone: tzinfo | None = None) -> int:
    """Return a moment as nanoseconds since 1970 UTC. Raises `ConfigError` if it cannot be one.

    A date is its midnight in `zone` (default: UTC). A time without a zone of its own needs a `zone`.
    """
    found = _parse(since) if isinstance(since, str) else since
    since, beyond = found if isinstance(found, TimeText) else (found, 0)
    if isinstance(since, timedelta):
        to_seconds(since, "since")
        try:
            since = datetime.now(UTC) - since
        except OverflowError as error:
            raise ConfigError(f"since: {since} ago is before the first possible date") from error
    if isinstance(since, date) and not isinstance(since, datetime):
        since = datetime.combine(since, time(), zone or UTC)
    if isinstance(since, datetime):
        if since.tzinfo is None and zone is None:
            raise ConfigError(
                f"since: {since} has no time zone; datetime.now(UTC) has one, or give one: tz={EXAMPLE!r}"
            )
        since = since.replace(tzinfo=since.tzinfo or zone)
        try:
            return to_ns(since.astimezone(UTC)) + beyond
        except OverflowError as error:
            raise ConfigError(f"since: {since} is not within the years 1 to 9999 in UTC") from error
    if not isinstance(since, int) or isinstance(since, bool):
        raise ConfigError(f"since: {since!r} is not a time: give a datetime, a timedelta or nanoseconds")
    if since < _LEAST_NS:
        raise ConfigError(
            f"since: {since} as nanoseconds since 1970 is before 2000; a duration before now is a "
            f"timedelta or a string ({EXAMPLES}), and a time a datetime"
        )
    return since


def to_seconds(value: float | timedelta | str, name: str) -> float:
    """Return a duration (seconds, also as a string; a timedelta; a string such as `5m`) in seconds.

    This is the rule for all timeouts and durations that readers take: finite, not negative, and no longer
    than a thread can wait. `name` is used in errors. Raises `ConfigError`.
    """
    found: object = value
    if isinstance(value, str):
        found = parse_duration(value)
        if found is None:
            try:
                found = float(value)
            except ValueError:
                raise ConfigError(f"{name}: {value!r} is not a duration; write {EXAMPLES}") from None
    if isinstance(found, timedelta):
        found = found.total_seconds()
    if isinstance(found, bool) or not isinstance(found, SupportsFloat) or math.isnan(found):
        raise ConfigError(f"{name}: {value!r} is not a duration; give seconds, a timedelta, or {EXAMPLES}")
    seconds = float(found)
    if seconds < 0:
        raise ConfigError(f"{name}: {value!r} is negative; give 0 or more seconds")
    if seconds > _LONGEST_S:
        raise ConfigError(f"{name}: {value!r} is too long; give at most {_LONGEST_S:,} seconds")
    return seconds
