"""Some rows of a frame: those of some symbols, those since a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from mdstream.errors import ConfigError
from mdstream.text.durations import EXAMPLES, parse_duration
from mdstream.venues.alpaca import sessions

Since = datetime | timedelta | int | str
"""A datetime with its time zone (also as ISO 8601 text), a duration before now (also as text, `5m`), or ns
since 1970 UTC.
"""

_TIMES = ("ts", "created_at", "recv_ts")
"""Columns that hold the time of a row; the first one that a frame has counts."""


def filter_rows(
    frame: pl.DataFrame, symbols: str | Sequence[str] | None = None, since: Since | None = None
) -> pl.DataFrame:
    """Return the rows of `symbols` whose time is not before `since`; None keeps all.

    Raises `ConfigError` for a value of another type, and for a frame without such a column.
    """
    if symbols is not None:
        frame = frame.filter(_has_symbol(frame, list_symbols(symbols)))
    if since is not None:
        frame = frame.filter(pl.col(_time_column(frame)).to_physical() >= to_nanoseconds(since))
    return frame


def keep_sessions(frame: pl.DataFrame, names: str | Sequence[str] | None, feed: str) -> pl.DataFrame:
    """Return the rows whose time is in one of these sessions of a data feed; None keeps all.

    Raises `UnknownNameError` for another session, and `ConfigError` for a frame without a time.
    """
    if names is None:
        return frame
    wanted = sessions.read_sessions(names)
    return frame.filter(sessions.classify(frame[_time_column(frame)], feed).is_in(wanted).fill_null(False))


def list_symbols(symbols: str | Sequence[str]) -> list[str]:
    """Return `symbols` as a list. Raises `ConfigError` if they are not texts."""
    if not isinstance(symbols, Sequence) or not all(isinstance(s, str) for s in symbols):
        raise ConfigError(f"symbols: {symbols!r} is neither a symbol nor a list of symbols")
    return [symbols] if isinstance(symbols, str) else list(symbols)


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


def _parse(text: str) -> datetime | timedelta:
    if (before_now := parse_duration(text)) is not None:
        return before_now
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"since: {text!r} is neither a duration before now ({EXAMPLES}) nor a time "
            "(2026-01-05T14:30:00Z)"
        ) from None


def to_nanoseconds(since: Since) -> int:
    """Return a moment as nanoseconds since 1970 UTC. Raises `ConfigError` if it cannot be one."""
    if isinstance(since, str):
        since = _parse(since)
    if isinstance(since, timedelta):
        try:
            since = datetime.now(UTC) - since
        except OverflowError as error:
            raise ConfigError(f"since: {since} ago is before the first possible date") from error
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise ConfigError(f"since: {since} has no time zone; datetime.now(UTC) has one")
        whole = since.astimezone(UTC).replace(microsecond=0)
        return int(whole.timestamp()) * 1_000_000_000 + since.microsecond * 1000
    if not isinstance(since, int) or isinstance(since, bool):
        raise ConfigError(f"since: {since!r} is not a time: give a datetime, a timedelta or nanoseconds")
    return since
