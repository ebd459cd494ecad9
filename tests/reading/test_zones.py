"""Readers return times in a zone, and take times without one as of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

import mdstream
from mdstream.errors import ConfigError
from mdstream.frames.rundir import RunDirectory
from mdstream.reading.attach import Attachment
from tests.reading import test_sessions
from tests.reading.test_sessions import TIMES
from tests.store.test_sources import Source, write

ZONE = "America/New_York"
DAY = datetime(2026, 1, 5, tzinfo=UTC)


directory = test_sessions.directory


@pytest.fixture
def run(directory: RunDirectory) -> Attachment:
    return test_sessions.make_run(directory, "stocks", "sip")


def hours(frame: pl.DataFrame) -> list[int]:
    return frame["ts"].dt.hour().to_list()


@pytest.mark.parametrize("tz", [ZONE, ZoneInfo(ZONE)])
def test_a_frame_is_returned_in_a_zone_without_a_change_of_its_moments(
    run: Attachment, tz: str | ZoneInfo
) -> None:
    plain, shown = run.frame("stocks.trades"), run.frame("stocks.trades", tz=tz)
    assert shown.schema["ts"] == pl.Datetime("ns", ZONE)
    assert shown["ts"].to_physical().to_list() == plain["ts"].to_physical().to_list()
    expected = [datetime.fromisoformat(text).astimezone(ZoneInfo(ZONE)).hour for text in TIMES]
    assert hours(shown) == expected


@pytest.mark.parametrize(
    ("since", "zone", "first"),
    [
        ("2026-01-05T09:30", ZONE, "2026-01-05T14:30:00+00:00"),
        (datetime(2026, 1, 5, 9, 30), ZONE, "2026-01-05T14:30:00+00:00"),
        (datetime(2026, 1, 5, 14, 30, tzinfo=UTC), ZONE, "2026-01-05T14:30:00+00:00"),
        ("2026-01-05T14:30:00Z", ZONE, "2026-01-05T14:30:00+00:00"),
        ("2026-01-05", ZONE, "2026-01-05T08:00:00+00:00"),
        (date(2026, 1, 5), "Asia/Tokyo", "2026-01-04T15:00:00+00:00"),
        ("2026-07-06T09:30", ZONE, "2026-07-06T13:30:00+00:00"),
    ],
)
def test_since_without_a_zone_is_of_the_zone_that_is_asked_for(
    run: Attachment, since: Any, zone: str, first: str
) -> None:
    found = run.frame("stocks.trades", since=since, tz=zone)
    assert found["ts"].min() == datetime.fromisoformat(first)


def test_since_without_any_zone_is_an_error_that_names_the_parameter(run: Attachment) -> None:
    with pytest.raises(ConfigError, match=r"has no time zone.*tz='America/New_York'"):
        run.frame("stocks.trades", since=datetime(2026, 1, 5, 9, 30))


@pytest.mark.parametrize("hours", [-12, -5, 1, 14])
def test_a_fixed_offset_of_whole_hours_is_a_zone(run: Attachment, hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    shown = run.frame("stocks.trades", tz=zone)
    assert shown["ts"].to_list() == run.frame("stocks.trades")["ts"].to_list()
    assert [each.utcoffset() for each in shown["ts"]] == [timedelta(hours=hours)] * shown.height
    first = datetime.fromisoformat(list(TIMES)[1]).astimezone(zone).replace(tzinfo=None)
    assert run.frame("stocks.trades", since=first.isoformat(), tz=zone).height == shown.height - 1


def test_an_offset_of_zero_is_utc(run: Attachment) -> None:
    for tz in (UTC, timezone(timedelta(0)), "UTC"):
        assert run.frame("stocks.trades", tz=tz).schema["ts"] == pl.Datetime("ns", "UTC")


HALF = timezone(timedelta(hours=5, minutes=30))
FAR = timezone(timedelta(hours=-13))


@pytest.mark.parametrize("tz", ["New York", "", "../etc/passwd", 5, timedelta(hours=5), HALF, FAR])
def test_what_is_not_a_zone_is_an_error(run: Attachment, tmp_path: Path, tz: Any) -> None:
    with pytest.raises(ConfigError, match="is not a time zone, such as America/New_York"):
        run.frame("stocks.trades", tz=tz)
    with pytest.raises(ConfigError, match="is not a time zone, such as America/New_York"):
        mdstream.scan("stocks.trades", tmp_path, tz=tz)


def test_scan_takes_and_returns_times_in_a_zone(tmp_path: Path) -> None:
    write(
        tmp_path,
        "stocks.trades",
        [Source(False, "sip", None, [(second, 1) for second in (5, 3_605, 86_405)])],
    )

    def seconds(**given: Any) -> list[int]:
        rows = mdstream.scan("stocks.trades", tmp_path, **given).sort("ts").collect()
        assert rows.schema["ts"] == pl.Datetime("ns", given.get("tz", "UTC"))
        return [round((moment - DAY).total_seconds()) for moment in rows["ts"]]

    assert seconds() == seconds(tz=ZONE) == [5, 3_605, 86_405]
    assert seconds(start="2026-01-04T20:00", tz=ZONE) == [3_605, 86_405]
    assert seconds(start=datetime(2026, 1, 4, 19), end="2026-01-04T20:00", tz=ZONE) == [5]
    assert seconds(end="2026-01-04", tz=ZONE) == [5, 3_605], "the day ends at midnight in New York"
    assert seconds(start="2026-01-05", tz=ZONE) == [86_405]
    assert seconds(start="2026-01-05", tz="Asia/Tokyo") == [5, 3_605, 86_405]
    assert seconds(start="2026-01-05T01:00:00Z", tz=ZONE) == [3_605, 86_405], "its own zone counts"


@pytest.mark.cases("N10")
def test_wrong_values_are_no_errors_of_python(run: Attachment) -> None:
    with pytest.raises(ConfigError, match="session: 5 is neither a session nor a list of sessions"):
        run.frame("stocks.trades", session=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is not within the years"):
        run.frame("stocks.trades", since="9999-12-31T23:00", tz=ZONE)
    with pytest.raises(ConfigError, match="'price>0' is not an expression, such as"):
        run.wait_for("stocks.trades", "price>0")  # type: ignore[arg-type]
