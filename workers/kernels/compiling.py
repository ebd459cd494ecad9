"""How kernels are compiled: once, on first use. `kept.py` says where the machine code is stored.

Numba finds stored code by the path of the source file. Here it looks only for the name: the folder `CACHE`
belongs to one text of all sources.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from workers.kernels.kept import BOUNDS_CHECKED, CACHE

F = TypeVar("F", bound=Callable[..., Any])


class _Locator(_CacheLocator):
    """Says where the machine code of a function is: in `CACHE`, whatever the path of its source."""

    def __init__(self, line: int, path: str) -> None:
        self._line, self._py_file = line, path  # `CompileResultCacheImpl` reads `_py_file` for warnings

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> _Locator:
        return cls(function.__code__.co_firstlineno, path)

    def get_cache_path(self) -> str:
        return str(CACHE)

    def get_source_stamp(self) -> str:
        return CACHE.name if CACHE is not None else ""

    def get_disambiguator(self) -> str:
        return str(self._line)


class _StoredCode(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):
    _impl_class = _StoredCode


def kernel(function: F) -> F:
    """Compile `function` on first use and store the machine code on disk."""
    compiled: Any = numba.njit(error_model="numpy", boundscheck=BOUNDS_CHECKED)(function)
    if CACHE is not None:
        compiled._cache = _Cache(function)  # as `cache=True` does with Numba's own
    return cast(F, compiled)


def inlined(function: F) -> F:
    """A helper that is inlined into the kernels that use it."""
    compiled: F = numba.njit(forceinline=True, error_model="numpy", boundscheck=BOUNDS_CHECKED)(function)
    return compiled


def called(function: F) -> F:
    """A helper too large to inline; kernels call it."""
    compiled: F = numba.njit(error_model="numpy", boundscheck=BOUNDS_CHECKED)(function)
    return compiled
