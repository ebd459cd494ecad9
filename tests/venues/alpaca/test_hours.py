from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mdstream.venues.alpaca.hours import is_open


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(2026, 11, 20, 14, 29, 59, tzinfo=UTC), False),  # a Friday in winter: 9:29:59
        (datetime(2026, 11, 20, 14, 30, tzinfo=UTC), True),
        (datetime(2026, 11, 20, 20, 59, 59, tzinfo=UTC), True),
        (datetime(2026, 11, 20, 21, 0, tzinfo=UTC), False),
        (datetime(2026, 7, 1, 13, 30, tzinfo=UTC), True),  # daylight saving: an hour earlier
        (datetime(2026, 11, 21, 15, 0, tzinfo=UTC), False),  # a Saturday
    ],
)
def test_regular_sessions_of_us_exchanges(moment: datetime, expected: bool) -> None:
    assert is_open(moment) is expected
