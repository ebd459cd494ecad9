from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mdstream.telemetry.histogram import BUCKETS, bucket_of, percentile_ms, upper_ns


@given(st.integers(1, 2**63 - 1))
def test_a_buckets_end_is_at_most_a_sixteenth_above_its_values(ns: int) -> None:
    [bucket] = bucket_of(np.array([ns])).tolist()
    assert 0 <= bucket < BUCKETS
    assert ns * (1 - 1e-12) <= upper_ns(bucket) <= ns * (1 + 1 / 16 + 1e-9) + 1


def test_what_was_received_before_it_happened_counts_as_nothing() -> None:
    assert bucket_of(np.array([-5, 0, 1])).tolist() == [0, 0, 0]


@given(st.lists(st.integers(1_000, 10**12), min_size=1, max_size=200), st.sampled_from([0.5, 0.99, 0.999]))
def test_percentiles_are_those_of_the_values(values: list[int], quantile: float) -> None:
    counts = np.bincount(bucket_of(np.array(values)), minlength=BUCKETS)
    exact = sorted(values)[max(0, int(np.ceil(quantile * len(values))) - 1)] / 1e6
    found = percentile_ms(counts, quantile)
    assert found is not None
    assert exact * 0.999999 <= found <= exact * 1.07


def test_nothing_has_no_percentile() -> None:
    assert percentile_ms(np.zeros(BUCKETS, np.int64), 0.5) is None
