"""The rate of a day in miniature: the messages due are the integral of the rate that the text names."""

from __future__ import annotations

from math import pi, sin

import pytest

from mdstream.simulator.pace_of_day import count_due


def test_without_a_day_the_rate_is_constant() -> None:
    assert [count_due(t, 50, 0) for t in (0, 1, 2.5)] == [0, 50, 125]


@pytest.mark.parametrize("day_s", [1.0, 120.0])
def test_the_rate_rises_and_falls_and_half_of_the_most_are_due(day_s: float) -> None:
    step = day_s / 1000
    for number in range(2000):
        t = number * step
        rate = (count_due(t + step, 800, day_s) - count_due(t, 800, day_s)) / step
        assert rate == pytest.approx(800 * sin(pi * (t + step / 2) / day_s) ** 2, abs=1)
    assert count_due(day_s, 800, day_s) == pytest.approx(400 * day_s)
