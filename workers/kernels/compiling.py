"""How kernels are compiled: once, on first use. `kept.py` says where the machine code is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

from workers.kernels.kept import BOUNDS_CHECKED, CACHE

F = TypeVar("F", bound=Callable[..., Any])

if CACHE is not None:
    numba.config.CACHE_DIR = str(CACHE)


def kernel(function: F) -> F:
    """Compile `function` on first use and store the machine code on disk."""
    compiled: F = numba.njit(cache=CACHE is not None, error_model="numpy", boundscheck=BOUNDS_CHECKED)(
        function
    )
    return compiled


def inlined(function: F) -> F:
    """A helper that is inlined into the kernels that use it."""
    compiled: F = numba.njit(forceinline=True, error_model="numpy", boundscheck=BOUNDS_CHECKED)(function)
    return compiled


def called(function: F) -> F:
    """A helper too large to inline; kernels call it."""
    compiled: F = numba.njit(error_model="numpy", boundscheck=BOUNDS_CHECKED)(function)
    return compiled
