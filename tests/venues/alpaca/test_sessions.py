"""Sessions of the data feeds: holidays, half days, nights, and the changes of the clocks."""

from __future__ import annotations

import itertools
import warnings
from datetime import UTC, date, datetime

import polars as pl
import pytest

from mdstream.streams import STREAMS
from mdstream.venues.alpaca import sessions, trading_days
from mdstream.venues.alpaca.sessions import NEW_YORK, Session
from tests.venues.alpaca.session_model import session_at


def ns(text: str) -> int:
    """A time in New York, in ns since 1970."""
    return round(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp()) * 1_000_000_000


@pytest.mark.parametrize(
    ("feed", "moment", "expected"),
    [
        ("sip", "2026-11-20T03:59:59", None),  # a Friday in winter
        ("sip", "2026-11-20T04:00", "pre"),
        ("sip", "2026-11-20T09:29:59", "pre"),
        ("sip", "2026-11-20T09:30", "regular"),
        ("sip", "2026-07-01T09:30", "regular"),  # daylight saving
        ("sip", "2026-11-20T15:59:59", "regular"),
        ("sip", "2026-11-20T16:00", "post"),
        ("sip", "2026-11-20T20:00", None),
        ("sip", "2026-11-21T11:00", None),  # a Saturday
        ("sip", "2026-11-26T11:00", None),  # Thanksgiving
        ("sip", "2026-11-27T12:59:59", "regular"),  # the half day after it
        ("sip", "2026-11-27T13:00", "post"),
        ("sip", "2026-11-27T17:00", None),
        ("sip", "2025-01-09T11:00", None),  # a day of mourning
        ("sip", "2026-07-03T11:00", None),  # Independence Day is a Saturday
        ("iex", "2026-11-20T07:59:59", None),
        ("iex", "2026-11-20T08:00", "pre"),
        ("iex", "2026-11-20T17:00", None),
        ("opra", "2026-11-20T16:14", "regular"),
        ("opra", "2026-11-20T16:15", None),
        ("opra", "2026-11-27T13:15", None),
        ("overnight", "2026-11-20T11:00", None),
        ("overnight", "2026-11-19T22:00", "overnight"),
        ("overnight", "2026-11-20T03:59:59", "overnight"),
        ("overnight", "2026-11-20T22:00", None),  # Friday: no trading day follows
        ("boats", "2026-11-22T20:00", "overnight"),  # Sunday
        ("boats", "2026-11-25T20:00", None),  # the eve of Thanksgiving
        ("boats", "2026-11-26T20:00", "overnight"),  # its evening
        ("boats", "2026-03-08T20:00", "overnight"),  # the Sunday on which the clocks change
        ("boats", "2026-11-01T20:00", "overnight"),
        ("us", "2026-11-26T03:00", "regular"),
        ("global", "2026-11-21T03:00", "regular"),
        ("test", "2026-11-21T03:00", "regular"),
    ],
)
def test_each_data_feed_has_its_sessions(feed: str, moment: str, expected: str | None) -> None:
    assert session_at(feed, ns(moment)) == expected


def test_every_data_feed_of_a_market_that_closes_has_hours() -> None:
    for spec in STREAMS.values():
        for feed in spec.feeds:
            assert (feed in sessions.HOURS) is (not spec.always_open and feed != "test"), feed


def test_a_column_of_times_is_classified() -> None:
    texts = [
        "2026-11-26T21:00",
        "2026-11-27T05:00",
        "2026-11-27T10:00",
        "2026-11-27T14:00",
        "2026-11-28T14:00",
    ]
    times = pl.Series("ts", [ns(text) for text in texts], pl.Int64).cast(pl.Datetime("ns", "UTC"))
    times = times.extend(pl.Series("ts", [None], times.dtype))
    assert sessions.classify(times).to_list() == ["overnight", "pre", "regular", "post", None, None]
    assert sessions.classify(times, sessions.HOURS["iex"]).to_list() == [
        None,
        None,
        "regular",
        "post",
        None,
        None,
    ]
    assert sessions.classify(times.cast(pl.Datetime("us", "UTC"))).to_list()[2] == "regular"
    assert sessions.classify(times.clear()).dtype == pl.String
    assert (
        sessions.classify(pl.Series("ts", [-5, 2**62], pl.Int64).cast(times.dtype)).to_list() == [None] * 2
    )


def test_a_column_is_classified_as_its_times_one_by_one() -> None:
    start, step = ns("2026-10-30T00:00"), 7 * 61 * 1_000_000_000
    at = [start + step * number for number in range(6_000)]
    times = pl.Series(at).cast(pl.Datetime("ns", "UTC"))
    for feed in ("sip", "boats", "opra"):
        found = sessions.classify(times, sessions.HOURS[feed])
        assert found.to_list() == [session_at(feed, each) for each in at]


def test_a_stream_has_the_sessions_of_all_its_feeds() -> None:
    assert sessions.join_hours(STREAMS["stocks"].feeds) == sessions.ALL_SESSIONS
    assert sessions.join_hours(STREAMS["options"].feeds) == sessions.HOURS["opra"]


@pytest.mark.parametrize(
    ("feed", "first", "past", "closed"),
    [
        ("iex", "2026-11-21", "2026-11-22", True),  # Saturday
        ("sip", "2026-11-21", "2026-11-22", False),  # until 1:00 UTC New York's Friday goes on
        ("sip", "2026-07-11", "2026-07-12", True),
        ("sip", "2026-11-22", "2026-11-23", True),
        ("iex", "2026-11-26", "2026-11-27", True),  # Thanksgiving
        ("iex", "2026-11-26", "2026-11-28", False),
        ("iex", "2026-11-23", "2026-11-23T06:00", False),  # an hour of an open day
        ("boats", "2026-11-22", "2026-11-23", True),
        ("us", "2026-11-21", "2026-11-22", False),
        ("iex", "2199-01-05", "2199-01-06", False),  # beyond the calendar
    ],
)
def test_a_day_without_a_session_is_closed(feed: str, first: str, past: str, closed: bool) -> None:
    span = [round(datetime.fromisoformat(t).replace(tzinfo=UTC).timestamp()) * 10**9 for t in (first, past)]
    assert sessions.is_closed(feed, *span) is closed


def test_sessions_follow_each_other_without_overlap() -> None:
    first, past = ns("2026-11-01T00:00"), ns("2026-12-01T00:00")
    found = sessions.find_windows("sip", first, past)
    assert all(a.past <= b.first for a, b in itertools.pairwise(found))
    assert {each.session for each in found} == {Session.PRE, Session.REGULAR, Session.POST}
    assert sum(each.session is Session.REGULAR for each in found) == 20


@pytest.mark.parametrize("feed", sessions.HOURS)
def test_the_session_of_a_time_is_that_of_the_windows(feed: str) -> None:
    start = ns("2026-10-25T00:00")  # then the clocks change, and there are a holiday and a half day
    for half_hour in range(6 * 7 * 48):
        at = start + half_hour * 1_800_000_000_000
        found = sessions.find_windows(feed, at, at + 1)
        assert session_at(feed, at) == (found[0].session if found else None)


def test_the_calendar_is_that_of_the_library() -> None:
    library = pytest.importorskip(
        "exchange_calendars.exchange_calendar_xnys", reason="needs exchange_calendars"
    )
    start, end = date(trading_days.FIRST_YEAR, 1, 1), date(trading_days.LAST_YEAR, 12, 31)
    with warnings.catch_warnings(action="ignore"):
        calendar = library.XNYSExchangeCalendar(start=f"{start}", end=f"{end}")
    listed = list(trading_days.list_trading_days())
    assert [day.date() for day in calendar.sessions] == listed
    halves = [day.date() for day in calendar.early_closes if day.date() in set(listed)]
    assert sorted(trading_days.HALF) == halves
    opens, closes = calendar.schedule["open"], calendar.schedule["close"]
    for session, first, past in sessions.find_windows(
        "sip", ns("2000-01-01T00:00"), ns("2036-01-01T00:00")
    ):
        if session is Session.REGULAR:
            day = f"{datetime.fromtimestamp(first / 1e9, NEW_YORK):%Y-%m-%d}"
            assert (opens[day].value, closes[day].value) == (first, past)


@pytest.mark.parametrize(
    ("feed", "first", "past", "seconds"),
    [
        ("sip", "2026-12-01T15:59", "2026-12-02T09:31", 120),
        ("iex", "2026-12-01T16:00", "2026-12-02T09:30", 0),
        ("opra", "2026-12-01T15:59:30", "2026-12-01T16:15", 30),
        ("otc", "2026-11-27T12:00", "2026-11-30T09:30:05", 3605),
        ("delayed_sip", "2026-12-01T09:30", "2026-12-01T09:46", 60),
        ("boats", "2026-12-04T03:59", "2026-12-06T20:01", 120),
        ("overnight", "2026-11-25T00:00", "2026-11-27T00:00", 8 * 3600),
        ("sip", "2026-10-26T00:00", "2026-11-07T00:00", 10 * 6.5 * 3600),
        ("sip", "2036-12-01T00:00", "2036-12-02T00:00", 6.5 * 3600),
        ("us", "2026-11-21T00:00", "2026-11-23T00:00", 48 * 3600),
        ("sip", "2026-12-01T12:00", "2026-12-01T12:00", 0),
    ],
)
def test_active_time_is_counted(feed: str, first: str, past: str, seconds: float) -> None:
    assert sessions.active_ns(feed, ns(first), ns(past)) == seconds * 1e9


@pytest.mark.parametrize("feed", sessions.HOURS)
def test_what_is_active_is_a_part_of_the_main_session(feed: str) -> None:
    hours = sessions.HOURS[feed]
    for at in range(ns("2026-11-24"), ns("2026-12-01"), 15 * 60_000_000_000):
        is_active = sessions.is_active(feed, at)
        if is_active:
            assert session_at(feed, at - hours.delay_ns) is hours.main_session
        elif not hours.late:
            assert session_at(feed, at - hours.delay_ns) is not hours.main_session
