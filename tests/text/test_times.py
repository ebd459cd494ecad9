"""Times as text keep every digit, wherever they are given."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.errors import ConfigError
from mdstream.reading.filters import to_nanoseconds
from mdstream.store.query import parse_time
from mdstream.text.times import TimeText, parse_time_text, to_ns

SECOND_NS = 1_000_000_000
LEAST, MOST = 946_684_800 * SECOND_NS, 2**63 - 8 * 366 * 86_400 * SECOND_NS
READERS = [lambda value: parse_time(value, "start"), to_nanoseconds]
"""The argument of whoever reads a store or fetches history, and that of whoever reads frames."""


@pytest.mark.parametrize("read", READERS)
@given(
    st.integers(LEAST, MOST),
    st.integers(0, 9),
    st.sampled_from([".", ","]),
    st.integers(-14 * 60, 14 * 60),
    st.booleans(),
)
def test_a_text_is_the_nanosecond_that_it_names(
    read: Any, ns: int, digits: int, point: str, minutes: int, basic: bool
) -> None:
    seconds, fraction = divmod(ns, SECOND_NS)
    fraction -= fraction % 10 ** (9 - digits)
    zone = timezone(timedelta(minutes=minutes))
    when = datetime.fromtimestamp(seconds, UTC).astimezone(zone)
    shown = point + f"{fraction:09d}"[:digits] if digits else ""
    text = when.strftime("%Y%m%dT%H%M%S{}%z" if basic else "%Y-%m-%d %H:%M:%S{}%z").format(shown)
    assert read(text) == seconds * SECOND_NS + fraction
    if not minutes:
        assert read(text[:-5] + "Z") == seconds * SECOND_NS + fraction


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "text",
    [
        "2026-01-05T14:30:00.1234567890Z",
        "2026-01-05T14:30:00.0000000000Z",
        "2026-01-05T14:30:00+00:00:00.5",
        "2026-01-05T14:30:00+00:00:00.0000005",
        "2026-01-05T14:30:00.5+00:00:00.5",
    ],
)
def test_a_text_that_is_more_exact_than_a_nanosecond_is_an_error(read: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=r"with at most nine digits behind the second"):
        read(text)


@pytest.mark.parametrize("read", READERS)
def test_a_type_with_nanoseconds_of_its_own_keeps_them(read: Any) -> None:
    class Timestamp(datetime):
        nanosecond = 789

    assert read(Timestamp(2026, 1, 5, 14, 30, 0, 123_456, UTC)) % SECOND_NS == 123_456_789


def test_a_date_has_no_time() -> None:
    assert parse_time_text("2026-01-05") == parse_time_text("20260105") == TimeText(date(2026, 1, 5))


@given(st.integers(-62_135_596_800 * 10**6, 253_402_300_799 * 10**6))
def test_no_microsecond_is_rounded(us: int) -> None:
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    assert to_ns(when) == us * 1000
