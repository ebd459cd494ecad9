"""Kernels run as Python functions until their machine code is there.

A new version of the kernels compiles for a minute. Until then a process decodes with the fallback decoder
(`workers.decoding.fallback`). The few kernels that this way needs, too, run as what they are: Python
functions. They are some 30 times slower, and make the same bytes: integers wrap, and floats are doubles.

    enter()    no machine code from now on
    leave()    machine code from now on; call it once all kernels are loaded

The kernels keep no state of their own, so the mode may change between any two calls.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import FunctionType, SimpleNamespace
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba.core.dispatcher import Dispatcher

F = TypeVar("F", bound=Callable[..., Any])

_is_on = False
"""Whether this process is in Python mode. Written by `enter` and `leave`."""

_thread = threading.local()
"""`is_loading` is set in a thread that loads the kernels."""


def enter() -> None:
    """Run kernels as Python from now on."""
    global _is_on  # noqa: PLW0603
    _is_on = True


def leave() -> None:
    """Run machine code from now on."""
    global _is_on  # noqa: PLW0603
    _is_on = False


def is_on() -> bool:
    """Return whether this process does without machine code."""
    return _is_on


@contextlib.contextmanager
def use_machine_code() -> Iterator[None]:
    """Run machine code in this thread only, to load it while others are in Python mode."""
    _thread.is_loading = True
    try:
        yield
    finally:
        _thread.is_loading = False


def either_way(kernel: F) -> F:
    """Return a function that runs `kernel`, or its Python function in Python mode."""
    python: list[Callable[..., Any]] = []

    def run(*arguments: Any) -> Any:
        if not _is_on or getattr(_thread, "is_loading", False):
            return kernel(*arguments)
        if not python:
            python.append(_as_python(kernel))
        return _run_python(python[0], arguments)

    return cast(F, run)


def _as_python(kernel: Any, made: dict[Any, FunctionType] | None = None) -> FunctionType:
    """Return the function of a kernel, which calls functions in place of kernels."""
    made = {} if made is None else made
    if kernel not in made:
        function = kernel.py_func
        scope = dict(function.__globals__)
        made[kernel] = FunctionType(
            function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
        )
        for name in function.__code__.co_names:  # names of attributes, too, which cost nothing
            if isinstance(scope.get(name), Dispatcher):
                scope[name] = _as_python(scope[name], made)
    return made[kernel]


def _run_python(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    tables = [_Rows(each) if _is_table(each) else None for each in arguments]
    given = [each if table is None else table for each, table in zip(arguments, tables, strict=True)]
    with np.errstate(all="ignore"):  # integers wrap, and infinity is a number, as in machine code
        result = function(*given)
    for table in tables:
        if table is not None:
            table.write()
    return result


def _is_table(argument: Any) -> bool:
    return isinstance(argument, np.ndarray) and argument.dtype.names is not None


class _Rows:
    """The rows of a structured array as objects with attributes, as kernels see them."""

    # Written by `__getitem__` only.
    _read: dict[int, tuple[SimpleNamespace, tuple[Any, ...]]]
    """The rows that were read, by number, each with its values in the array."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        self._names = array.dtype.names or ()
        # Such integers wrap as those of machine code do; other fields do not get that large.
        self._words = [name for name in self._names if array.dtype[name] == np.int64]
        self._read = {}

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> SimpleNamespace:
        index = int(index)
        if (known := self._read.get(index)) is not None:
            return known[0]
        values = [v.tolist() if isinstance(v, np.ndarray) else v for v in self._array[index].item()]
        row = SimpleNamespace(**dict(zip(self._names, values, strict=True)))
        for name in self._words:
            setattr(row, name, np.int64(getattr(row, name)))
        self._read[index] = row, self._values(row)
        return row

    def write(self) -> None:
        """Write changed rows to the array."""
        for index, (row, before) in self._read.items():
            if (values := self._values(row)) != before:
                self._array[index] = values

    def _values(self, row: SimpleNamespace) -> tuple[Any, ...]:
        found = (getattr(row, name) for name in self._names)
        return tuple(tuple(each) if isinstance(each, list) else each for each in found)
