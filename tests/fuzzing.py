"""How many examples each property test tries.

`FUZZ` is the factor: a third in `make test`, 1 in `make test-slow`, more in `make fuzz`. Every run tries
other examples.
"""

from __future__ import annotations

import os

FUZZ = float(os.environ.get("FUZZ") or 1 / 3)


def examples(count: int) -> int:
    """Return how many examples to try where `count` are a thorough test."""
    return max(10, round(count * FUZZ))
