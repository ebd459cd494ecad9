from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.feed.contracts import FollowedContracts, choose_contracts
from mdstream.streams import STREAMS

CHAIN = STREAMS["options"].chain
assert CHAIN is not None
TODAY = date(2026, 12, 1)


def make_contract(day: date, strike: int, underlying: str = "SPY") -> str:
    return f"{underlying}{day:%y%m%d}C{strike * 1000:08d}"


def make_chain(*days: int, strikes: range = range(100, 104)) -> list[str]:
    return [make_contract(TODAY + timedelta(day), strike) for day in days for strike in strikes]


CONTRACTS = st.builds(
    lambda day, strike: make_contract(TODAY + timedelta(day), strike),
    st.integers(-3, 5),
    st.integers(90, 110),
)


def choose(listed: list[str], followed: list[str], count: int, today: date = TODAY) -> list[str]:
    return choose_contracts(CHAIN, listed, set(followed), count, today)


def test_the_nearest_contracts_are_followed_at_first() -> None:
    assert choose(make_chain(0, 1), [], 4) == CHAIN.nearest(make_chain(0), 4)


def test_what_the_chain_lists_no_longer_makes_room_for_the_next_expiry() -> None:
    first = choose(make_chain(0, 1), [], 8)
    assert set(first) == set(make_chain(0, 1))
    second = choose(make_chain(1, 2), first, 8)
    assert set(second) == set(make_chain(1, 2))


def test_what_has_expired_is_not_followed_even_if_the_chain_lists_it_still() -> None:
    before = choose(make_chain(0, 1), [], 4)
    assert set(before) == set(make_chain(0))
    assert set(choose(make_chain(0, 1), before, 4, TODAY + timedelta(1))) == set(make_chain(1))


def test_in_a_recorded_market_all_contracts_have_expired_and_dates_say_nothing() -> None:
    past = make_chain(-30, -29)
    assert choose(past, [], 4) == CHAIN.nearest(past, 4)


def test_a_followed_contract_stays_while_it_is_among_twice_the_nearest() -> None:
    strikes = range(100, 110)
    followed = choose(make_chain(0, strikes=strikes), [], 4)
    # Each new strike above moves the middle by half a step, and so the ranks of all contracts.
    higher = range(100, 113)
    assert set(CHAIN.nearest(make_chain(0, strikes=higher), 4)) != set(followed)
    assert set(choose(make_chain(0, strikes=higher), followed, 4)) == set(followed)
    far = choose(make_chain(0, strikes=range(100, 140)), followed, 4)
    assert set(far) == set(CHAIN.nearest(make_chain(0, strikes=range(100, 140)), 4))


def test_fewer_contracts_are_followed_if_fewer_are_to_be() -> None:
    followed = choose(make_chain(0, strikes=range(100, 110)), [], 8)
    assert choose(make_chain(0, strikes=range(100, 110)), followed, 3) == followed[:3]


@given(st.lists(CONTRACTS, max_size=40), st.lists(CONTRACTS, max_size=20), st.integers(1, 12))
def test_as_many_as_there_are_are_followed_and_a_repeat_changes_nothing(
    listed: list[str], followed: list[str], count: int
) -> None:
    chosen = choose(listed, followed, count)
    alive = {c for c in listed if CHAIN.expiry_of(c) >= TODAY} or set(listed)
    assert len(chosen) == len(set(chosen)) == min(count, len(alive))
    assert set(chosen) <= alive
    assert choose(listed, chosen, count) == chosen
    near = CHAIN.nearest(sorted(alive), 2 * count)
    kept = set(followed) & set(near)
    assert set(chosen) <= kept or kept <= set(chosen), "nothing near is given up for something new"
    assert choose(listed, [], count) == near[:count]


@given(st.lists(CONTRACTS, min_size=1, max_size=40, unique=True), st.integers(1, 12), st.data())
def test_no_contract_is_exchanged_while_ranks_change_within_twice_the_number(
    listed: list[str], count: int, data: st.DataObject
) -> None:
    near = CHAIN.nearest([c for c in listed if CHAIN.expiry_of(c) >= TODAY] or listed, 2 * count)
    size = min(count, len(near))
    followed = data.draw(st.lists(st.sampled_from(near), min_size=size, max_size=size, unique=True))
    assert set(choose(listed, followed, count)) == set(followed)


def test_a_successor_follows_what_its_predecessor_followed(tmp_path: Path) -> None:
    path = tmp_path / "options.contracts"
    first = FollowedContracts(CHAIN, 2, path)
    assert first.restore() == 0
    assert first.update("SPY", make_chain(0, 1), TODAY)
    assert not first.update("SPY", make_chain(0, 1), TODAY), "nothing has changed"
    second = FollowedContracts(CHAIN, 2, path)
    assert second.restore() == 2
    assert list(second.find("SPY")) == list(first.find("SPY"))
    assert second.find("QQQ") == ()
    assert [p.name for p in tmp_path.iterdir()] == ["options.contracts"]


@pytest.mark.parametrize("data", ["", "[1]", '{"SPY": 1}', '{"SPY": ["SPY"]}', '{"SPY": ["SPY261', "\0"])
def test_a_damaged_file_is_as_none_and_noted(
    data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "options.contracts"
    path.write_text(data)
    followed = FollowedContracts(CHAIN, 2, path)
    assert followed.restore() == 0
    assert "cannot be read" in caplog.text
    followed.update("SPY", make_chain(0), TODAY)
    assert json.loads(path.read_text()) == {"SPY": followed.find("SPY")}


def test_a_file_that_cannot_be_written_is_noted_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    followed = FollowedContracts(CHAIN, 2, tmp_path / "missing" / "options.contracts")
    for day in range(3):
        assert followed.update("SPY", make_chain(day), TODAY)
    assert caplog.text.count("cannot be written") == 1
