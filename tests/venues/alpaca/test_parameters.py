from __future__ import annotations

import pytest

from mdstream.venues.alpaca.parameters import format_time


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (1_699_999_999_999_999_999, "2023-11-14T22:13:19.999999999Z"),
    ],
)
def test_times_are_written_to_the_nanosecond(ns: int, text: str) -> None:
    assert format_time(ns) == text
