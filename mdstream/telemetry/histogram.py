"""Latency histograms: 64-bit counts in buckets that are 3 to 6 percent wide, from 1 ns to centuries.

The bucket of a value is its binary exponent and the four bits after its leading one. Histograms can be
added. So they can be kept in shared memory, sent as a few (bucket, count) pairs, and merged in any order.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BUCKETS = 1024
_PER_OCTAVE = 16
BELOW_BITS = 52 - 4
"""Bits of a float after the four that select the bucket within an octave."""
BIAS = 1023 * _PER_OCTAVE
"""What the upper bits of a float of 1.0 are."""

Counts = npt.NDArray[np.uint64]


def bucket_of(nanoseconds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the bucket of each duration; bucket 0 if below 1 ns (clocks that disagree)."""
    # The upper 12 bits of a float are its exponent; the next ones follow its leading one.
    bits = np.maximum(nanoseconds, 1).astype(np.float64).view(np.int64)
    return np.asarray((bits >> BELOW_BITS) - BIAS, np.int64)


def upper_ns(bucket: int) -> float:
    """Return the upper end of a bucket, in nanoseconds."""
    octave, step = divmod(bucket, _PER_OCTAVE)
    return float(2.0**octave * (1 + (step + 1) / _PER_OCTAVE))


def percentile_ms(counts: npt.NDArray[np.integer], quantile: float) -> float | None:
    """Return the quantile `quantile` in milliseconds; None if the histogram is empty.

    It is the upper end of a bucket, and so at most 6.25 percent above the true value.
    """
    cumulated = counts.cumsum()
    if not len(cumulated) or cumulated[-1] == 0:
        return None
    rank = max(1, math.ceil(quantile * int(cumulated[-1])))
    bucket = int(cumulated.searchsorted(cumulated.dtype.type(rank)))
    return upper_ns(bucket) / 1e6
