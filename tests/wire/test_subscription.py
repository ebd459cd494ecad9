from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mdstream.wire.subscription import Request, Subscriptions, requests

SYMBOLS = st.frozensets(st.text("ABCXYZ/é1", min_size=1, max_size=8), max_size=40)


@given(st.dictionaries(st.sampled_from(["trades", "quotes", "bars"]), SYMBOLS))
def test_requests_ask_for_exactly_what_is_wanted(wanted: dict[str, frozenset[str]]) -> None:
    asked: dict[str, list[str]] = {}
    for request in requests("subscribe", wanted):
        for channel, symbols in request.symbols:
            asked.setdefault(channel, []).extend(symbols)
    assert {c: frozenset(s) for c, s in asked.items()} == {c: s for c, s in wanted.items() if s}
    assert all(len(s) == len(set(s)) for s in asked.values())


@given(st.frozensets(st.integers(0, 9999).map("SYMBOL{}".format), max_size=2000), st.integers(0, 9))
def test_symbols_with_priority_come_before_all_others(symbols: frozenset[str], digit: int) -> None:
    def comes_first(symbol: str) -> bool:
        return symbol.endswith(str(digit))

    found = requests("subscribe", {"trades": symbols, "quotes": symbols}, comes_first)
    asked = [symbol for request in found for symbol in dict(request.symbols)["trades"]]
    assert asked == sorted(filter(comes_first, symbols)) + sorted(symbols - {*filter(comes_first, symbols)})


@given(SYMBOLS.filter(bool))
def test_cutting_a_request_again_and_again_loses_no_symbol(symbols: frozenset[str]) -> None:
    todo = [Request("subscribe", (("trades", tuple(sorted(symbols))), ("quotes", ("A",))))]
    alone = []
    while todo:
        request = todo.pop()
        parts = request.halves()
        todo += parts
        if not parts:
            alone += request.refuse("no")
    assert {r.symbol for r in alone if r.channel == "trades"} == symbols
    assert {r.symbol for r in alone if r.channel == "quotes"} == {"A"}


def test_refused_symbols_are_not_asked_for_again() -> None:
    s = Subscriptions(wanted={"trades": {"A", "B"}})
    s.refused["trades", "B"] = "no"
    assert s.find_missing() == {"trades": frozenset({"A"})}


def test_a_symbol_counts_as_refused_only_where_no_channel_serves_it() -> None:
    s = Subscriptions(wanted={"trades": {"A", "B"}, "imbalances": {"A", "B"}})
    s.refused = {("imbalances", "A"): "no", ("imbalances", "B"): "no", ("trades", "B"): "bad"}
    assert s.find_refused() == {"B": "bad"}


def test_refusals_of_what_is_no_longer_wanted_are_forgotten() -> None:
    s = Subscriptions(wanted={"trades": {"A", "B", "C"}})
    s.refused = {("trades", "A"): "no", ("trades", "B"): "too many"}
    s.again = {("trades", "B")}
    s.want("trades", {"A", "D"})
    assert s.wanted == {"trades": {"A", "D"}}
    assert s.refused == {("trades", "A"): "no"}
    assert not s.again
