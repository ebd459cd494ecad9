"""Durations that are negative, endless or no durations at all are answered in one sentence, by one rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

import mdstream
from mdstream.errors import ConfigError
from mdstream.frames.rundir import RunDirectory
from mdstream.frames.writer import Limits
from mdstream.reading.filters import to_seconds
from tests.reading.test_reading import Market

WRONG = [
    (-1, "-1 is negative; give 0 or more seconds"),
    (-math.inf, "-inf is negative"),
    (timedelta(seconds=-2), "is negative"),
    (math.nan, "nan is not a duration"),
    ("nan", "'nan' is not a duration"),
    (math.inf, "inf is too long"),
    (1e300, "is too long; give at most 9,223,372,036 seconds"),
    (True, "True is not a duration"),
    ("soon", "'soon' is not a duration; write 5m, 90s"),
    ([5], r"\[5\] is not a duration"),
    (1j, "is not a duration"),
]


@pytest.fixture
def market() -> Iterator[Market]:
    with RunDirectory() as run:
        run.describe(streams=["stocks"], symbols={"stocks": ["*"]})
        yield Market(run, Limits(64_000_000, 4_000_000))


CALLS: dict[str, Callable[[Market, Any], object]] = {
    "timeout": lambda market, value: market.run.wait_for("stocks.trades", timeout=value),
    "poll_s": lambda market, value: market.run.tail("stocks.trades", poll_s=value),
    "poll_s of several": lambda market, value: market.run.tail(["stocks.trades"], poll_s=value),
    "timeout of an engine": lambda _, value: mdstream.Engine({"streams": ["stocks"]}).wait(value),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("value", "problem"), WRONG, ids=lambda each: str(each)[:20])
def test_a_wrong_duration_is_answered_in_one_sentence(
    market: Market, call: str, value: Any, problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{call.partition(' ')[0]}: .*{problem}") as raised:
        CALLS[call](market, value)
    assert "\n" not in str(raised.value)


def test_rows_since_a_time_that_is_yet_to_come_are_an_error(market: Market) -> None:
    with pytest.raises(ConfigError, match=r"^since: .* is negative"):
        market.run.frame("stocks.trades", since=timedelta(minutes=-5))


@pytest.mark.parametrize("name", ["max_rows", "max_lag"])
@pytest.mark.parametrize("value", [1.5, math.nan, "5", None, True])
def test_a_number_of_rows_is_a_whole_number(market: Market, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: {value!r} is not a number of rows"):
        market.run.tail("stocks.trades", **{name: value})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0.0), (1.5, 1.5), (np.int64(3), 3.0), ("90s", 90.0), ("2", 2.0), (timedelta(minutes=1), 60.0)],
)
def test_a_duration_is_seconds_a_timedelta_or_text(value: Any, seconds: float) -> None:
    assert to_seconds(value, "timeout") == seconds
