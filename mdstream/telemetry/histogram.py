"""Latency histograms: 64-bit counts in buckets 3 to 6 percent wide, from 1 ns to centuries.

A value's bucket is its binary exponent and the four bits behind its leading one. Histograms add up, so
they can be kept in shared memory, sent as a few (bucket, count) pairs, and merged in any order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BUCKETS = 1024
_PER_OCTAVE = 16
_BELOW = 52 - 4
"""Bits of a float behind the four that tell the bucket within an octave."""
_BIAS = 1023

Counts = npt.NDArray[np.uint64]


def bucket_of(nanoseconds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The bucket of each duration; those below 1 ns (clocks that disagree) go to bucket 0."""
    # Of a float's bits the upper 12 are its exponent, and the next ones what follows its leading one.
    bits = np.maximum(nanoseconds, 1).astype(np.float64).view(np.int64)
    return np.asarray((bits >> _BELOW) - _BIAS * _PER_OCTAVE, np.int64)


def upper_ns(bucket: int) -> float:
    """The upper end of a bucket, in nanoseconds."""
    octave, step = divmod(bucket, _PER_OCTAVE)
    return float(2.0**octave * (1 + (step + 1) / _PER_OCTAVE))


def percentile_ms(counts: npt.NDArray[np.integer], quantile: float) -> float | None:
    """The value below which a share `quantile` of all lie, in milliseconds; None if there are none.

    The upper end of its bucket is given: at most 6.25 percent above the true value.
    """
    cumulated = np.cumsum(counts.astype(np.int64))
    if not len(cumulated) or cumulated[-1] == 0:
        return None
    rank = max(1, int(np.ceil(quantile * int(cumulated[-1]))))
    bucket = int(np.searchsorted(cumulated, rank))
    return upper_ns(bucket) / 1e6
