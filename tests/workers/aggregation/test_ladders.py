"""The ladders of order books, compared with plain dicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.frames.book_levels import LevelColumns
from mdstream.handoff.columns import ColumnData
from mdstream.streams.books import BOOK_DEPTH
from tests.fuzzing import examples
from workers import python_mode
from workers.aggregation import ladders
from workers.aggregation.ladders import Ladders
from workers.kernels import ladder

MOST = 12
SYMBOLS = [0, 1, 700]


@pytest.fixture(autouse=True, scope="module", params=["machine code", "python"])
def mode(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run all tests with compiled kernels, and with the same kernels as Python functions."""
    if request.param == "python":
        python_mode.enter()
    yield
    python_mode.leave()


class Row(NamedTuple):
    symbol: int
    ask: int
    price: float | None
    """None: a reset to an empty book."""
    size: float
    reset: bool = False


PRICE = st.integers(0, 40).map(lambda p: p / 4) | st.sampled_from([-1.5, 1e300, 5e-324])
LEVEL = st.tuples(st.sampled_from(SYMBOLS), st.integers(0, 1), PRICE, st.sampled_from([0.0, 1.0, 2.5]))
BATCH = st.tuples(st.sets(st.sampled_from(SYMBOLS)), st.lists(LEVEL, max_size=60))


def net_rows(resets: set[int], levels: list[tuple[int, int, float, float]]) -> list[Row]:
    """Return rows as `aggregation.books` makes them: each level once, and each reset book at least once."""
    rows = {(s, a, p): Row(s, a, p, size, s in resets) for s, a, p, size in levels}
    empty = [Row(s, 0, None, 0.0, True) for s in resets if all(key[0] != s for key in rows)]
    return [*rows.values(), *empty]


def columns_of(rows: list[Row]) -> LevelColumns:
    there = np.array([row.price is not None for row in rows])
    mask = None if there.all() else there
    return LevelColumns(
        ColumnData(np.array([row.symbol for row in rows], np.uint32)),
        ColumnData(np.array([row.ask if row.price is not None else 9999 for row in rows], np.uint16)),
        ColumnData(np.array([row.price or 0.0 for row in rows]), mask),
        ColumnData(np.array([row.size for row in rows]), mask),
        ColumnData(np.array([row.reset for row in rows], np.bool_)),
    )


class Model:
    """The books by plain dicts: (symbol, side) → price → size."""

    def __init__(self) -> None:
        self.sides: dict[tuple[int, int], dict[float, float]] = {}
        self.dropped = 0

    def take(self, rows: list[Row]) -> None:
        for symbol in {row.symbol for row in rows if row.reset}:
            self.sides[symbol, 0], self.sides[symbol, 1] = {}, {}
        for row in rows:
            if row.price is not None:
                side = self.sides.setdefault((row.symbol, row.ask), {})
                side[row.price] = row.size
                if not row.size:
                    del side[row.price]
        for (symbol, ask), side in self.sides.items():
            beyond = self.best(symbol, ask)[MOST:]
            self.dropped += len(beyond)
            for price, _ in beyond:
                del side[price]

    def best(self, symbol: int, ask: int) -> list[tuple[float, float]]:
        return sorted(self.sides.get((symbol, ask), {}).items(), reverse=not ask)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(BATCH, max_size=12), st.integers(1, 8))
def test_they_equal_plain_dicts(batches: list, room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladders, "MOST_LEVELS", MOST)
        patch.setattr(ladders, "_START_LEVELS", room)
        patch.setattr(ladders, "_START_SYMBOLS", 1)
        ours, model = Ladders(dropped=3), Model()
    ours.note_sides([False, True])
    for resets, levels in batches:
        if not (rows := net_rows(resets, levels)):
            continue
        ours.update(columns_of(rows))
        model.take(rows)
        symbols = sorted({row.symbol for row in rows})
        best = ours.read_best(np.array(symbols, np.int64))
        for index, symbol in enumerate(symbols):
            for ask in (0, 1):
                wanted = model.best(symbol, ask)
                assert best.counts[ask, index] == len(wanted)
                found = best.levels[ask, : len(wanted[:BOOK_DEPTH]), :, index]
                assert found.tolist() == [[*level] for level in wanted[:BOOK_DEPTH]]
                assert not best.levels[ask, len(wanted) :, :, index].any()
    assert ours.dropped == 3 + model.dropped


def test_a_book_is_complete_from_its_reset_until_it_loses_something() -> None:
    ours = Ladders()
    ours.note_sides([False, True])
    symbols = np.array([0, 5, 100_000])
    assert ours.are_complete(symbols).tolist() == [False] * 3
    ours.update(columns_of([Row(0, 0, 1.0, 1.0, True), Row(5, 1, None, 0.0, True)]))
    assert ours.are_complete(symbols).tolist() == [True, True, False]
    assert ours.read_best(symbols[:2]).complete.tolist() == [1, 1]
    ours.lose([5, 100_000])
    assert ours.are_complete(symbols).tolist() == [True, False, False]
    ours.lose(None)
    assert not ours.are_complete(symbols).any()


def test_a_side_that_was_dropped_from_is_known_up_to_the_best_dropped_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ladders, "MOST_LEVELS", MOST)
    ours = Ladders()
    ours.note_sides([False, True])
    prices = [float(price) for price in range(1, MOST + 2)]
    ours.update(columns_of([Row(0, 1, price, 1.0, True) for price in prices]))
    symbols = np.array([0])
    assert ours.read_best(symbols).complete.tolist() == [1]
    for removed, complete in ((2, 1), (3, 0)):
        ours.update(columns_of([Row(0, 1, price, 0.0) for price in prices[:removed]]))
        assert ours.read_best(symbols).complete.tolist() == [complete]
    ours.update(columns_of([Row(0, 1, prices[-1], 1.0), Row(0, 1, 2.0, 1.0)]))
    assert ours.read_best(symbols).complete.tolist() == [1]


def test_no_form_of_memory_compiles_another_kernel() -> None:
    """That takes seconds in a running feed, and the code on disk would no longer be what was compiled."""
    ours = Ladders()
    ours.note_sides([False, True])
    columns = columns_of([Row(0, 1, 1.0, 1.0, True), Row(0, 0, 2.0, 1.0, True)])
    for column in columns:
        column.values.flags.writeable = False
    ours.update(columns)
    ours.update(LevelColumns(*(ColumnData(column.values[::-1]) for column in columns)))
    ours.read_best(np.array([0]))
    if not python_mode.is_on():
        assert [len(kernel.signatures) for kernel in (ladder.update, ladder.read_best)] == [1, 1]
