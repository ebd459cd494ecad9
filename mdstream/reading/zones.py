"""Time zones of readers: of the times in a result, and of times that name no zone."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import TYPE_CHECKING, TypeVar
from zoneinfo import ZoneInfo

from mdstream.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

EXAMPLE = "America/New_York"

Zone = str | ZoneInfo | timezone
"""The name of a time zone, a zone of `zoneinfo`, or a fixed offset of whole hours."""


def read_zone(tz: Zone) -> ZoneInfo:
    """Return a time zone. Raises `ConfigError` for anything else, and for an offset that has no zone.

    Polars knows zones by their names alone, and offsets of whole hours have one: `Etc/GMT+5` is UTC-5.
    """
    if isinstance(tz, ZoneInfo) and tz.key:
        return tz
    name: object = _name_offset(tz) if isinstance(tz, timezone) else tz
    try:
        return ZoneInfo(name)  # type: ignore[arg-type]
    except (OSError, KeyError, ValueError, TypeError):
        raise ConfigError(
            f"tz: {tz!r} is not a time zone, such as {EXAMPLE}, or an offset of whole hours from -12 to +14"
        ) from None


def _name_offset(tz: timezone) -> str:
    """Return the name of the zone with a fixed offset; empty if none has it."""
    hours, rest = divmod(tz.utcoffset(None), timedelta(hours=1))
    if rest:
        return ""
    return f"Etc/GMT{-hours:+d}" if hours else "UTC"


def show_in_zone(frame: Frame, zone: ZoneInfo | None) -> Frame:
    """Return a frame whose times are in a zone, without a copy; None leaves them in UTC."""
    if zone is None or zone.key == "UTC":
        return frame
    import polars.selectors as cs

    return frame.with_columns(cs.datetime(time_zone="*").dt.convert_time_zone(zone.key))
