from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.streams.options import is_contract, is_root_of, nearest, root_of, spellings_of


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("AAPL240426C00162500", True),
        ("SPXW240327P04925000", True),
        ("AAPL1240426C00162500", True),
        ("A240426C00162500", True),
        ("AAPL", False),
        ("240426C00162500", False),
        ("AAPL240426X00162500", False),
        ("AAPL261399C00100000", False),  # no such month
        ("AAPL260230C00100000", False),  # no such day
        ("AAPL240229C00100000", True),
        ("AAPL250229C00100000", False),
        ("", False),
    ],
)
def test_contracts_are_distinguished_from_underlyings(symbol: str, expected: bool) -> None:
    assert is_contract(symbol) is expected


def test_the_contracts_followed_are_near_in_time_and_in_the_middle_of_the_strikes() -> None:
    chain = [
        f"A{date}{right}{strike * 1000:08d}"
        for date in ("261218", "261211")
        for strike in range(90, 111)
        for right in "CP"
    ]
    found = nearest(chain, 6)
    assert {c[-15:-9] for c in found} == {"261211"}
    assert sorted({int(c[-8:]) // 1000 for c in found}) == [99, 100, 101]
    assert nearest([], 5) == []
    assert set(nearest(chain, 1000)) == set(chain)


def _make_ladder(root: str, strikes: range, expiry: str = "261218") -> list[str]:
    return [f"{root}{expiry}C{strike * 1000:08d}" for strike in strikes]


@pytest.mark.cases("S10")
def test_adjusted_contracts_have_a_ladder_of_their_own() -> None:
    plain, adjusted = _make_ladder("XOM", range(100, 130)), _make_ladder("XOM2", range(10, 40))
    found = nearest([*adjusted, *plain], 20)
    assert sorted(int(c[-8:]) // 1000 for c in found) == list(range(105, 125))
    assert {c[:-15] for c in found} == {"XOM"}


@pytest.mark.cases("S10")
@given(
    plain=st.lists(st.integers(1, 99_999_999), min_size=1, unique=True),
    adjusted=st.lists(st.integers(1, 99_999_999), unique=True),
    count=st.integers(0, 30),
)
def test_adjusted_contracts_change_nothing_about_the_choice_of_plain_ones(
    plain: list[int], adjusted: list[int], count: int
) -> None:
    only = [f"XOM261218C{strike:08d}" for strike in plain]
    mixed = [*(f"XOM2261211P{strike:08d}" for strike in adjusted), *only]
    assert [c for c in nearest(mixed, count) if c in only] == nearest(only, count)


@pytest.mark.cases("S10")
def test_roots_that_end_with_a_letter_are_equals() -> None:
    """SPXW is the root of the weekly contracts of SPX."""
    found = nearest([*_make_ladder("SPX", range(10, 30)), *_make_ladder("SPXW", range(10, 30))], 4)
    assert {c[:-15] for c in found} == {"SPX", "SPXW"}


@pytest.mark.cases("S10")
@pytest.mark.parametrize(
    ("underlying", "root", "is_its"),
    [
        ("BRK.B", "BRKB", True),
        ("BRK.B", "BRKB1", True),
        ("XOM", "XOM2", True),
        ("XOM", "XOMA", False),
        ("XOM", "XO", False),
        ("BRK.A", "BRKB", False),
    ],
)
def test_the_root_of_contracts_is_the_underlying_without_punctuation(
    underlying: str, root: str, is_its: bool
) -> None:
    assert is_root_of(root, underlying) is is_its
    assert root_of("BRK.B") == "BRKB"
    assert spellings_of("BRKB") == ("BRKB", "BRK.B")
    assert spellings_of("BRK.B") == ("BRK.B",)
