from __future__ import annotations

import pytest

from mdstream.errors import ConfigError
from mdstream.venues.alpaca.timeframes import length_ns, minutes_of

MINUTE_NS = 60_000_000_000


@pytest.mark.parametrize(
    ("timeframe", "minutes"),
    [("1Min", 1), ("59Min", 59), ("23Hour", 1380), ("1Day", 1440), ("1Week", 10_080)],
)
def test_the_minutes_of_a_timeframe(timeframe: str, minutes: int) -> None:
    assert minutes_of(timeframe) == minutes


@pytest.mark.parametrize("text", ["", "1", "0Min", "60Min", "24Hour", "2Day", "5Month", "1min", "1Min "])
def test_what_the_service_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="timeframe"):
        minutes_of(text)


def test_a_day_may_have_25_hours() -> None:
    assert length_ns("5Min") == 5 * MINUTE_NS
    assert length_ns("1Day") == 25 * 60 * MINUTE_NS
