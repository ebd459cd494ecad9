"""Some rows of a frame: those of some symbols, those since a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from mdstream.errors import ConfigError

Since = datetime | timedelta | int | str
"""A moment (with its time zone; as text, in ISO 8601), how long ago, or nanoseconds since 1970 UTC."""

_TIMES = ("ts", "created_at", "recv_ts")


def narrowed(frame: pl.DataFrame, symbols: str | Sequence[str] | None, since: Since | None) -> pl.DataFrame:
    """The rows of `frame` for `symbols` whose time is not before `since`; all where these are None."""
    if symbols is not None:
        if not isinstance(symbols, Sequence) or not all(isinstance(s, str) for s in symbols):
            raise ConfigError(f"symbols: {symbols!r} is neither a symbol nor a list of them")
        frame = frame.filter(_of(frame, [symbols] if isinstance(symbols, str) else list(symbols)))
    if since is not None:
        frame = frame.filter(pl.col(_time_of(frame)).to_physical() >= nanoseconds(since))
    return frame


def _of(frame: pl.DataFrame, symbols: list[str]) -> pl.Expr:
    if "symbol" in frame.columns:
        return pl.col("symbol").is_in(symbols)
    if "symbols" in frame.columns:
        return pl.col("symbols").list.set_intersection(symbols).list.len() > 0
    raise ConfigError("symbols: this frame has none")


def _time_of(frame: pl.DataFrame) -> str:
    for name in _TIMES:
        if name in frame.columns:
            return name
    for name, dtype in frame.schema.items():
        if isinstance(dtype, pl.Datetime):
            return name
    raise ConfigError("since: this frame has no time")


def nanoseconds(since: Since) -> int:
    """`since` as nanoseconds since 1970 UTC."""
    if isinstance(since, str):
        try:
            since = datetime.fromisoformat(since)
        except ValueError as error:
            raise ConfigError(f"since: {error}") from error
    if isinstance(since, timedelta):
        try:
            since = datetime.now(UTC) - since
        except OverflowError as error:
            raise ConfigError(f"since: {since} ago is before all times") from error
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise ConfigError(f"since: {since} has no time zone; datetime.now(UTC) has one")
        whole = since.astimezone(UTC).replace(microsecond=0)
        return int(whole.timestamp()) * 1_000_000_000 + since.microsecond * 1000
    if not isinstance(since, int) or isinstance(since, bool):
        raise ConfigError(f"since: {since!r} is no moment: give a datetime, a timedelta or nanoseconds")
    return since
