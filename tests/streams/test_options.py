from __future__ import annotations

import pytest

from mdstream.streams.options import is_contract, nearest


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
