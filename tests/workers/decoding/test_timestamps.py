from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.simulator.encode import rfc3339
from workers.decoding.timestamps import Timestamps

NS = st.integers(-(2**63), 2**63 - 1)
MODERN = st.integers(0, 4_000_000_000 * 10**9)


@given(st.lists(MODERN, max_size=5))
def test_every_nanosecond_survives_as_text(values: list[int]) -> None:
    timestamps = Timestamps()
    for _ in range(2):  # the second call uses the cache
        assert [timestamps.nanoseconds(rfc3339(v)) for v in values] == values


@given(NS)
def test_every_nanosecond_survives_as_a_msgpack_extension(value: int) -> None:
    packed = msgpack.packb(msgpack.Timestamp(*divmod(value, 10**9)))
    assert Timestamps().nanoseconds(msgpack.unpackb(packed)) == value


@given(MODERN, st.integers(-14 * 60, 14 * 60), st.integers(0, 9))
def test_any_offset_and_any_number_of_digits(value: int, minutes: int, digits: int) -> None:
    value -= value % 10 ** (9 - digits)
    zone = timezone(timedelta(minutes=minutes))
    seconds, fraction = divmod(value, 10**9)
    text = datetime.fromtimestamp(seconds, zone).strftime("%Y-%m-%dT%H:%M:%S")
    dot = "." + f"{fraction:09d}"[:digits] if digits else ""
    sign = "-" if minutes < 0 else "+"
    offset = f"{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    assert Timestamps().nanoseconds(text + dot + offset) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
        ("2024-03-12t10:38:50.79613221z", 1710239930_796132210),
        ("2024-02-29T00:00:00-05:00", 1709182800_000000000),
        ("1677-09-21T00:12:43.145224192Z", -(2**63)),
        ("2262-04-11T23:47:16.854775807Z", 2**63 - 1),
    ],
)
def test_known_times(text: str, expected: int) -> None:
    timestamps = Timestamps()
    assert timestamps.nanoseconds(text) == expected
    assert timestamps.nanoseconds(text) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Z",
        "2024-03-12",
        "2024-03-12T10:38:50",
        "2024-03-12T10:38:50.Z",
        "2024-13-12T10:38:50Z",
        "2024-02-30T10:38:50Z",
        "2024-03-12T24:00:00Z",
        "2024-03-12T10:38:60Z",
        "2024-03-12T10:38:5Z",
        "2024-03-12T10:38:50.1234567890Z",
        "2024-03-12T10:38:50.12x4Z",
        "2024-03-12T10:38:50.-12Z",
        "2024-03-12T10:38:50.٣Z",
        "2024-03-12T10:38:50+0100",
        "2024-03-12T10:38:50.+1Z",
        "1600-01-01T00:00:00Z",
        "2300-01-01T00:00:00Z",
        "1677-09-21T00:12:43.145224191Z",
        "2262-04-11T23:47:16.854775808Z",
        5,
        1.5,
        None,
        True,
        [],
        b"2024-03-12T10:38:50Z",
        msgpack.Timestamp(2**40, 0),
    ],
)
def test_what_is_not_a_time_is_refused_with_a_reason(value: object) -> None:
    timestamps = Timestamps()
    timestamps.nanoseconds("2024-03-12T10:38:50Z")  # its seconds are in the cache now
    with pytest.raises(ValueError, match="time"):
        timestamps.nanoseconds(value)


@given(st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)))
def test_agrees_with_the_standard_library(moment: datetime) -> None:
    text = moment.isoformat() + "Z"
    since = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    assert Timestamps().nanoseconds(text) == since // timedelta(microseconds=1) * 1000
