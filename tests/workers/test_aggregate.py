"""One-minute bars: partials joined in order equal a plain loop over the trades, however they were cut."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.bars import MINUTE, BarBuilder, BarRow
from mdstream.simulator.encode import rfc3339
from mdstream.streams import STREAMS
from mdstream.streams.spec import Kind, PayloadKind
from tests import expected
from tests.decoding import Dictionaries, text_of
from workers.aggregate import Effect, Effects, partials
from workers.kernels.runs import add
from workers.library import LibraryDecoder
from workers.payloads import Payloads

START = 1_700_000_040_000_000_000 - 1_700_000_040_000_000_000 % MINUTE


@pytest.mark.parametrize(
    ("stream", "conditions", "tape", "effect"),
    [
        ("stocks", ["@"], "C", Effect.ALL),
        ("stocks", [" "], "A", Effect.ALL),
        ("stocks", [], "A", Effect.ALL),
        ("stocks", None, None, Effect.ALL),
        ("stocks", ["@", "F", "T"], "C", Effect.ALL),
        ("stocks", ["@", "F", "T", "I"], "C", Effect.VOLUME),
        ("stocks", ["B"], "A", Effect.VOLUME),
        ("stocks", ["B"], "B", Effect.VOLUME),
        ("stocks", ["B"], "C", Effect.ALL),
        ("stocks", ["W"], "C", Effect.VOLUME),
        ("stocks", ["W"], "O", Effect.VOLUME),
        ("stocks", ["W"], "A", Effect.ALL),
        ("stocks", ["G"], "C", Effect.VOLUME),
        ("stocks", ["P"], "C", Effect.VOLUME),
        ("stocks", ["Z"], "A", Effect.VOLUME),
        ("stocks", ["4"], "B", Effect.VOLUME),
        ("stocks", ["7", "V"], "B", Effect.VOLUME),
        ("stocks", ["M"], "C", Effect.NOTHING),
        ("stocks", ["@", "Q"], "C", Effect.NOTHING),
        ("stocks", ["I", "9"], "A", Effect.NOTHING),
        ("stocks", ["X", "5", "6"], "B", Effect.ALL),
        ("options", "I", None, Effect.ALL),
        ("options", "a", None, Effect.ALL),
        ("options", "t", None, Effect.VOLUME),
        ("options", "A", None, Effect.NOTHING),
        ("crypto", None, None, Effect.ALL),
    ],
)
def test_the_strictest_condition_decides_what_a_trade_does(
    stream: str, conditions: Any, tape: Any, effect: Effect
) -> None:
    rules = STREAMS[stream].bar_rules
    assert rules is not None
    effects = Effects(rules)
    assert effects.of(conditions, tape) is effect
    assert effects.of(conditions, tape) is effect


@given(st.lists(st.floats(-1e12, 1e12)))
def test_sums_kept_in_pairs_are_exact_when_rounded(values: list[float]) -> None:
    total = np.zeros(2)
    for value in values:
        add(total, value)
    exact = sum(map(Fraction, values), Fraction(0))
    assert abs(Fraction(float(total.sum())) - exact) <= abs(exact) * Fraction(1, 2**52) + Fraction(
        1, 10**15
    )


TRADES = st.lists(
    st.tuples(
        st.integers(0, 3),  # symbol
        st.integers(0, 5 * 60 - 1),  # second
        st.sampled_from([100.0, 100.01, 99.99, 0.1, 3.3, 7.77]),
        st.integers(1, 500),
        st.sampled_from([["@"], ["@", "I"], ["Q"], [" "], ["B"]]),
        st.sampled_from("ABC"),
    ),
    max_size=80,
)


def payload(trade: tuple[Any, ...]) -> bytes:
    symbol, second, price, size, conditions, tape = trade
    message = {"T": "t", "S": f"S{symbol}", "p": price, "s": size, "c": conditions, "z": tape,
               "t": rfc3339(START + second * 10**9)}  # fmt: skip
    return orjson.dumps([message])


def build(trades: list[tuple[Any, ...]], cuts: list[int]) -> list[tuple[Any, ...]]:
    """The bars published when the trades come in batches of the sizes `cuts`, over and over."""
    spec = STREAMS["stocks"]
    assert spec.bar_rules is not None
    dictionaries = Dictionaries()
    decoder = LibraryDecoder(spec, dictionaries.known)
    builder = BarBuilder(Kind.INT)
    rows: list[tuple[Any, ...]] = []

    def show(published: list[BarRow]) -> None:
        if published:
            data = builder.columns(published, {"minute": 0, "updated": 1})
            rows.extend(zip(*(c.values.tolist() for c in data), strict=True))

    left, turn = list(trades), 0
    while left:
        size = cuts[turn % len(cuts)]
        batch, left, turn = left[:size], left[size:], turn + 1
        decoded = decoder.decode(Payloads.of([(payload(t), PayloadKind.JSON, 0) for t in batch]))
        runs = partials(
            spec.by_name["trades"],
            decoded.columns["trades"],
            Effects(spec.bar_rules),
            lambda column, code, d=decoded: text_of(d, dictionaries, column, code),
        )
        dictionaries.take(decoded)
        names = decoded.new.get("symbols", ())
        known = dictionaries.codes["symbols"]
        provisional = runs["symbol"] >= 1 << 31
        runs["symbol"][provisional] = [
            known[names[c - (1 << 31)]] for c in runs["symbol"][provisional]
        ]
        show(builder.join(runs))
    show(builder.finish())
    return rows


@given(TRADES, st.lists(st.integers(1, 20), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_bars_do_not_depend_on_how_the_trades_were_cut(
    trades: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    assert build(trades, cuts) == build(trades, [1]) == build(trades, [max(1, len(trades))])


def plain_effect(trade: dict[str, Any]) -> str:
    if "Q" in trade["conditions"]:
        return "nothing"
    if "I" in trade["conditions"] or ("B" in trade["conditions"] and trade["tape"] in "AB"):
        return "volume"
    return "all"


@given(TRADES, st.lists(st.integers(1, 20), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_the_last_bar_of_each_minute_equals_a_plain_loop(
    trades: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    plain = expected.minute_bars(
        [
            {
                "symbol": s,
                "ts": START + second * 10**9,
                "price": p,
                "size": v,
                "conditions": c,
                "tape": z,
            }
            for s, second, p, v, c, z in trades
        ],
        plain_effect,
    )
    order: dict[int, int] = {}
    for s, *_ in trades:
        order.setdefault(s, len(order))
    last = {(row[0], row[1]): row for row in build(trades, cuts)}
    # A minute whose first and only rows came before it had a price is published once it has one.
    assert set(last) == {(order[s], minute) for s, minute in plain}
    for (s, minute), b in plain.items():
        row = last[order[s], minute]
        assert row[2:6] == (b["open"], b["high"], b["low"], b["close"])
        assert (row[6], row[7]) == (b["volume"], b["n"])
        assert row[8] == pytest.approx(float(b["pv"] / b["w"]), rel=1e-15)


def test_a_bar_is_published_when_the_symbol_goes_on_or_falls_silent() -> None:
    def trade(symbol: int, second: int) -> tuple[Any, ...]:
        return (symbol, second, 100.0, 1, ["@"], "C")

    rows = build(
        [trade(0, 0), trade(1, 10), trade(0, 60), trade(0, 120), trade(1, 30), trade(1, 125)], [1]
    )
    told = [(symbol, (ts - START) // MINUTE, kind, n) for symbol, ts, *_, n, _, kind, _ in rows]
    assert told == [
        (0, 0, 0, 1),  # symbol 0 goes on to its next minute
        (1, 0, 0, 1),  # symbol 1 has been silent for two minutes
        (0, 1, 0, 1),  # symbol 0 goes on again
        (1, 0, 1, 2),  # a late trade revises the bar, once symbol 1 trades in another minute
        (0, 2, 0, 1),
        (1, 2, 0, 1),
    ]


def test_partials_of_no_trades_are_empty() -> None:
    assert len(BarBuilder(Kind.INT).join(np.empty(0, np.void))) == 0
