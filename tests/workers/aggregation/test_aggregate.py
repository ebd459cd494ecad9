"""Effects of trades on bars, and sums that do not depend on order. `test_bars.py` tests whole bars."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.streams import STREAMS
from workers.aggregation.aggregate import Effect, Effects
from workers.kernels.partials import add


@pytest.mark.parametrize(
    ("stream", "conditions", "tape", "effect"),
    [
        ("stocks", ["@"], "C", Effect.ALL),
        ("stocks", [" "], "A", Effect.ALL),
        ("stocks", [], "A", Effect.ALL),
        ("stocks", None, None, Effect.ALL),
        ("stocks", ["@", "F", "T"], "C", Effect.ALL),
        ("stocks", ["@", "F", "T", "I"], "C", Effect.VOLUME),
        ("stocks", ["B"], "A", Effect.VOLUME),
        ("stocks", ["B"], "B", Effect.VOLUME),
        ("stocks", ["B"], "C", Effect.ALL),
        ("stocks", ["W"], "C", Effect.VOLUME),
        ("stocks", ["W"], "O", Effect.VOLUME),
        ("stocks", ["W"], "A", Effect.ALL),
        ("stocks", ["G"], "C", Effect.VOLUME),
        ("stocks", ["P"], "C", Effect.VOLUME),
        ("stocks", ["Z"], "A", Effect.VOLUME),
        ("stocks", ["4"], "B", Effect.VOLUME),
        ("stocks", ["7", "V"], "B", Effect.VOLUME),
        ("stocks", ["M"], "C", Effect.NOTHING),
        ("stocks", ["@", "Q"], "C", Effect.NOTHING),
        ("stocks", ["I", "9"], "A", Effect.NOTHING),
        ("stocks", ["X", "5", "6"], "B", Effect.ALL),
        ("options", "I", None, Effect.ALL),
        ("options", "a", None, Effect.ALL),
        ("options", "t", None, Effect.VOLUME),
        ("options", "A", None, Effect.NOTHING),
        ("crypto", None, None, Effect.ALL),
    ],
)
def test_the_strictest_condition_decides_what_a_trade_does(
    stream: str, conditions: Any, tape: Any, effect: Effect
) -> None:
    rules = STREAMS[stream].bar_rules
    assert rules is not None
    effects = Effects(rules)
    assert effects.of(conditions, tape) is effect
    assert effects.of(conditions, tape) is effect


@given(st.lists(st.floats(-1e12, 1e12)))
@settings(deadline=None)  # the first call compiles the kernel
def test_sums_kept_in_pairs_are_exact_when_rounded(values: list[float]) -> None:
    total = np.zeros(2)
    for value in values:
        add(total, value)
    exact = sum(map(Fraction, values), Fraction(0))
    assert abs(Fraction(float(total.sum())) - exact) <= abs(exact) * Fraction(1, 2**52) + Fraction(
        1, 10**15
    )
