from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdstream.config import Config
from mdstream.feed.contracts import FollowedContracts
from mdstream.feed.selection import Selection
from mdstream.settings import from_mapping
from mdstream.streams import STREAMS

SPY = [f"SPY400101C{strike:08d}" for strike in (100, 101)]
QQQ = [f"QQQ400101C{strike:08d}" for strike in (100, 101)]


def make_selection(folder: Path, stream: str = "options", **settings: Any) -> Selection:
    config: Config = from_mapping({stream: {"chain_contracts": 2, **settings}})
    spec = STREAMS[stream]
    followed = FollowedContracts(spec.chain, 2, folder / "contracts")
    return Selection(spec, config.stream(stream), followed)


def follow_both(folder: Path, *named: str) -> Selection:
    selection = make_selection(folder, symbols=["SPY", "QQQ", *named])
    assert selection.follow("SPY", SPY)
    assert selection.follow("QQQ", QQQ)
    return selection


def wanted(selection: Selection) -> dict[str, set[str]]:
    return selection.subscriptions.wanted


def test_an_underlying_stands_for_its_contracts(tmp_path: Path) -> None:
    selection = make_selection(tmp_path, symbols=["SPY"])
    assert wanted(selection) == {"trades": set(), "quotes": set()}
    assert selection.count == 2
    assert selection.follow("SPY", SPY)
    assert not selection.follow("SPY", SPY)
    assert wanted(selection) == {"trades": set(SPY), "quotes": set(SPY)}
    assert selection.count == 2


def test_contracts_that_are_no_longer_followed_are_not_wanted_and_the_named_ones_are(
    tmp_path: Path,
) -> None:
    selection = follow_both(tmp_path, SPY[0])
    later = [f"SPY400102C{strike:08d}" for strike in (100, 101)]
    assert selection.follow("SPY", later)
    assert wanted(selection)["quotes"] == {SPY[0], *later, *QQQ}


def test_unsubscribing_an_underlying_leaves_what_the_user_named(tmp_path: Path) -> None:
    selection = follow_both(tmp_path, QQQ[0])
    selection.unsubscribe([], ["QQQ"])
    assert wanted(selection) == {"trades": {*SPY, QQQ[0]}, "quotes": {*SPY, QQQ[0]}}
    assert [*selection.symbols] == ["SPY", QQQ[0]]
    assert selection.subscribe([], ["QQQ"]) == ["QQQ"], "to fetch"
    assert wanted(selection)["trades"] == {*SPY, *QQQ}, "at once, as they were"


def test_an_underlying_may_be_subscribed_on_one_channel(tmp_path: Path) -> None:
    selection = follow_both(tmp_path)
    selection.unsubscribe(["trades"], ["SPY"])
    assert wanted(selection) == {"trades": set(QQQ), "quotes": {*SPY, *QQQ}}
    assert selection.subscribe(["quotes"], ["IWM"]) == ["IWM"], "its chain has the contracts"
    assert selection.subscribe(["quotes"], ["IWM400101C00000100"]) == []


def test_a_contract_that_the_user_removed_is_not_followed_until_the_user_adds_it(tmp_path: Path) -> None:
    selection = follow_both(tmp_path)
    selection.unsubscribe(["quotes"], [SPY[0]])
    selection.follow("QQQ", QQQ[:1])
    selection.follow("SPY", SPY)
    assert wanted(selection) == {"trades": {*SPY, QQQ[0]}, "quotes": {SPY[1], QQQ[0]}}
    assert selection.subscribe([], [SPY[0]]) == [SPY[0]]
    assert SPY[0] in wanted(selection)["quotes"]


def test_who_removed_all_contracts_of_an_underlying_wants_no_subscription_of_it(tmp_path: Path) -> None:
    selection = make_selection(tmp_path, symbols=["SPY"])
    selection.follow("SPY", SPY)
    selection.unsubscribe([], SPY[:1])
    assert selection.count == 2
    selection.unsubscribe([], SPY[1:])
    assert wanted(selection) == {"trades": set(), "quotes": set()}
    assert selection.count == 0
    selection.subscribe(["quotes"], SPY[:1])
    assert selection.count == 2, "the contract, and its underlying"


def test_only_new_symbols_are_fetched(tmp_path: Path) -> None:
    selection = make_selection(tmp_path, "stocks", symbols=["AAPL"])
    assert selection.subscribe([], ["AAPL", "MSFT", "*"]) == ["MSFT"]
    assert selection.subscribe(["trades"], ["TSLA"]) == [], "on a channel only"
    selection.unsubscribe([], ["MSFT"])
    assert selection.subscribe([], ["MSFT"]) == ["MSFT"]
    assert "TSLA" in wanted(selection)["trades"]
    selection.unsubscribe([], ["TSLA"])
    assert not any("TSLA" in symbols for symbols in wanted(selection).values())


@pytest.mark.parametrize("first", ["SPY", QQQ[1]])
def test_symbols_with_priority_and_their_contracts_come_first(first: str, tmp_path: Path) -> None:
    selection = make_selection(tmp_path, symbols=["AAPL", "SPY", QQQ[1]], priority=[first])
    assert next(iter(selection.symbols)) == first
    assert selection.subscriptions.comes_first(SPY[0]) is (first == "SPY")


def test_commands_that_are_repeated_to_a_successor_lose_no_contracts(tmp_path: Path) -> None:
    make_selection(tmp_path, symbols=["SPY"]).follow("QQQ", QQQ)
    successor = make_selection(tmp_path, symbols=["SPY"])
    assert successor.restore() == 2
    successor.subscribe([], ["QQQ"])
    successor.unsubscribe([], ["QQQ"])
    assert not wanted(successor)["trades"]
    successor.subscribe([], ["QQQ"])
    assert wanted(successor)["trades"] == set(QQQ)
