"""Time zones of readers: of the times in a result, and of times that name no zone."""

from __future__ import annotations

from datetime import UTC, tzinfo
from typing import TYPE_CHECKING, TypeVar
from zoneinfo import ZoneInfo

from mdstream.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

EXAMPLE = "America/New_York"


def read_zone(tz: str | tzinfo) -> ZoneInfo:
    """Return a time zone by its name or as `zoneinfo` has it. Raises `ConfigError` for anything else."""
    if isinstance(tz, ZoneInfo):
        return tz
    try:
        return ZoneInfo("UTC" if tz is UTC else tz)  # type: ignore[arg-type]
    except (OSError, KeyError, ValueError, TypeError):
        raise ConfigError(f"tz: {tz!r} is not a time zone, such as {EXAMPLE}") from None


def show_in_zone(frame: Frame, zone: ZoneInfo | None) -> Frame:
    """Return a frame whose times are in a zone, without a copy; None leaves them in UTC."""
    if zone is None or zone.key == "UTC":
        return frame
    import polars.selectors as cs

    return frame.with_columns(cs.datetime(time_zone="*").dt.convert_time_zone(zone.key))
