"""Kernels as Python functions make the same bytes as their machine code, whatever the values.

`aggregation/test_bars.py` runs in both modes, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.handoff.columns import PARTIAL
from workers import python_mode
from workers.kernels import levels, newest, partials
from workers.python_mode import either_way

_NOW = 1_700_000_040_000_000_000
_times = st.one_of(
    st.integers(_NOW, _NOW + 5_000_000_000), st.sampled_from([0, -1, -(1 << 62), (1 << 63) - 1, 1 << 62])
)
_prices = st.one_of(st.floats(0, 1e6), st.sampled_from([0.0, -0.0, 5e-324, 1e308, float("inf")]))
_symbols = st.one_of(st.integers(0, 3), st.sampled_from([1 << 31, (1 << 32) - 1]))


@pytest.fixture(autouse=True)
def machine_code() -> Iterator[None]:
    yield
    python_mode.leave()


def both_ways(kernel: Any, *arguments: Any) -> tuple[Any, Any]:
    """Return the result and all bytes of the arguments afterwards, of machine code and of Python."""
    found = []
    run = either_way(kernel)
    for begin in (python_mode.leave, python_mode.enter):
        begin()
        given = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        found.append((run(*given), [a.tobytes() for a in given if isinstance(a, np.ndarray)]))
    return found[0], found[1]


@given(
    st.lists(
        st.tuples(_symbols, _times, _prices, _prices, st.integers(0, partials.CANCEL), _times), max_size=40
    )
)
def test_trades_are_folded_to_the_same_partials(events: list[tuple[Any, ...]]) -> None:
    kinds = (np.uint32, np.int64, np.float64, np.float64, np.uint8, np.int64)
    columns = [np.array([e[i] for e in events], kind) for i, kind in enumerate(kinds)]
    places, whose = np.zeros((2, 128), np.int64)
    compiled, python = both_ways(partials.fold, *columns, places, whose, np.zeros(len(events), PARTIAL))
    assert compiled == python


@given(st.lists(st.tuples(_symbols, _times, _times), max_size=40))
def test_the_newest_rows_are_the_same(rows: list[tuple[int, int, int]]) -> None:
    columns = [np.array([r[i] for r in rows], k) for i, k in enumerate((np.uint32, np.int64, np.int64))]
    compiled, python = both_ways(
        newest.newest, *columns, np.zeros(128, np.int64), np.zeros(len(rows), np.int64)
    )
    assert compiled == python


@given(st.lists(st.tuples(_symbols, st.integers(0, 1), st.integers(0, 2), st.booleans()), max_size=40))
def test_the_net_change_of_books_is_the_same(rows: list[tuple[int, int, int, bool]]) -> None:
    count = len(rows)
    prices = np.array([float(r[2]) * 1e300 for r in rows]).view(np.uint64)
    compiled, python = both_ways(
        levels.net,
        np.array([r[0] for r in rows], np.uint32),
        np.array([r[1] for r in rows], np.uint16),
        prices,
        np.arange(count) << 32,
        np.array([r[3] for r in rows], np.bool_),
        np.ones(count, np.bool_),
        *np.zeros((2, 128), np.int64),
        *np.zeros((5, count), np.int64),
    )
    assert compiled == python


def test_a_thread_that_loads_the_kernels_runs_machine_code() -> None:
    calls: list[str] = []

    def kernel() -> None:
        calls.append("machine code")

    kernel.py_func = lambda: calls.append("python")  # type: ignore[attr-defined]
    run = either_way(kernel)
    python_mode.enter()
    run()
    with python_mode.use_machine_code():
        run()
    run()
    python_mode.leave()
    run()
    assert calls == ["python", "machine code", "python", "machine code"]
