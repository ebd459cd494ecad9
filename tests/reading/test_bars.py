"""Bars that readers make: longer bars, bars by trades or volume, differences from the service's bars."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.errors import ConfigError
from mdstream.limits import LARGEST_NUMBER
from mdstream.reading.bars import BarLength, build_bars, compare_bars, merge_bars
from mdstream.streams import STREAMS
from tests import expected
from tests.fuzzing import examples

NOON = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)
TIME = pl.Datetime("ns", "UTC")


def make_bars(*rows: tuple[str, int, float, int, bool]) -> pl.DataFrame:
    """Return built bars from tuples of symbol, minute, price, volume and completeness."""
    frame = pl.DataFrame(
        [
            {
                "symbol": s,
                "ts": NOON + timedelta(minutes=m),
                "open": p,
                "high": p,
                "low": p,
                "close": p,
                "volume": v,
                "trade_count": 1,
                "vwap": p,
                "vwap_volume": v,
                "revised": False,
                "complete": whole,
                "recv_ts": NOON,
            }
            for s, m, p, v, whole in rows
        ]
    )
    return frame.with_columns(pl.col("ts", "recv_ts").cast(TIME))


def make_service_bars(*rows: tuple[str, int, float, int]) -> pl.DataFrame:
    frame = make_bars(*((*row, True) for row in rows))
    return frame.with_columns(kind=pl.lit("minute"))


FIVE = BarLength.parse("5m")


def get_values(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return frame.select("symbol", pl.col("ts").dt.minute(), "volume", "complete").rows()


def test_a_longer_bar_is_complete_if_nothing_of_it_was_missed_of_any_symbol() -> None:
    bars = make_bars(
        ("A", 0, 1.0, 1, True),
        ("A", 6, 1.0, 2, False),
        ("A", 10, 1.0, 4, True),
        ("A", 15, 1.0, 8, True),
        ("B", 1, 1.0, 1, True),
        ("B", 7, 1.0, 2, True),
        ("B", 12, 1.0, 4, True),
    )
    assert get_values(merge_bars(bars, FIVE)) == [
        ("A", 0, 1, True),
        ("A", 5, 2, False),
        ("A", 10, 4, True),
        ("A", 15, 8, False),
        ("B", 0, 1, True),
        ("B", 5, 2, False),
        ("B", 10, 4, True),
    ]


def test_a_longer_bar_that_began_before_all_that_is_kept_is_not_complete() -> None:
    bars = make_bars(("A", 3, 1.0, 1, True), ("A", 5, 1.0, 2, True), ("A", 10, 1.0, 2, True))
    assert [row[-1] for row in get_values(merge_bars(bars, FIVE))] == [False, True, False]


def test_of_no_bars_none_are_made() -> None:
    assert merge_bars(make_bars(("A", 0, 1.0, 1, True)).clear(), FIVE).height == 0


def make_trades(rows: list[tuple[int, float, float, str]]) -> pl.DataFrame:
    """Return stock or crypto trades from tuples of second, price, size and conditions."""
    frame = pl.DataFrame(
        [
            {
                "symbol": "A",
                "ts": NOON + timedelta(seconds=s),
                "price": p,
                "size": v,
                "conditions": c,
                "tape": "A",
                "recv_ts": NOON,
            }
            for s, p, v, c in rows
        ]
    )
    texts = pl.col("conditions", "tape").cast(pl.Categorical)
    return frame.with_columns(pl.col("ts", "recv_ts").cast(TIME), texts)


STOCKS, CRYPTO = STREAMS["stocks"].bar_rules, STREAMS["crypto"].bar_rules
SIZES = st.sampled_from([0.1, 0.3, 1.0, 2.5, 7.0])


@given(
    st.lists(st.tuples(st.sampled_from([1.5, 2.25, 99.0]), SIZES), min_size=1, max_size=60),
    st.sampled_from(["3 trades", "1 volume", "2.5 volume", "50 dollars"]),
)
@settings(max_examples=examples(100), deadline=None)
def test_bars_of_what_is_traded_equal_a_plain_loop(rows: list[tuple[float, float]], every: str) -> None:
    assert CRYPTO is not None
    length = BarLength.parse(every)
    frame = make_trades([(i, p, v, "@") for i, (p, v) in enumerate(rows)]).drop("conditions", "tape")
    found = build_bars(frame, CRYPTO, length)
    buckets: dict[int, list[tuple[float, float]]] = {}
    before = Fraction(0)
    for price, size in rows:
        exact, worth = Fraction(str(size)), Fraction(str(size)) * Fraction(str(price))
        buckets.setdefault(int(before / Fraction(str(length.count))), []).append((price, size))
        before += {"trades": Fraction(1), "volume": exact, "dollars": worth}[length.unit]
    assert found["bar"].to_list() == list(buckets)
    assert found["trade_count"].to_list() == [len(b) for b in buckets.values()]
    assert found["open"].to_list() == [b[0][0] for b in buckets.values()]
    assert found["high"].to_list() == [max(p for p, _ in b) for b in buckets.values()]
    assert found["close"].to_list() == [b[-1][0] for b in buckets.values()]
    assert found["complete"].to_list() == [True] * (len(buckets) - 1) + [False]


@pytest.mark.parametrize("every", ["1 trades", "10 volume", "1000 dollars"])
def test_the_largest_numbers_break_no_bar(every: str) -> None:
    """Numbers beyond are rejects; see `mdstream.limits`."""
    assert CRYPTO is not None
    top = LARGEST_NUMBER
    rows = [
        (0, top, top, "@"),
        (1, top, top, "@"),
        (2, -top, top, "@"),
        (3, 5.0, 1.0, "@"),
        (4, 6.0, 1.0, "@"),
    ]
    frame = make_trades(rows).drop("conditions", "tape")
    usual = frame.with_columns(price=2.0, size=10.0, symbol=pl.lit("B"))
    bars = build_bars(pl.concat([frame, usual], how="vertical_relaxed"), CRYPTO, BarLength.parse(every))
    assert set(bars.select(pl.col(pl.Float64).is_finite().all()).row(0)) == {True}
    alone = build_bars(usual, CRYPTO, BarLength.parse(every))
    assert bars.filter(symbol="B").equals(alone)
    assert alone["bar"].dtype == pl.Int64


def test_odd_lots_count_in_volume_only_and_a_bar_of_them_is_none() -> None:
    assert STOCKS is not None
    lots = [(i, 1.0 + i, 10, c) for i, c in enumerate(["@", "@I", "@", "@I", "@I", "@I"])]
    bars = build_bars(make_trades(lots), STOCKS, BarLength.parse("2 trades"))
    assert bars.select("open", "close", "volume", "vwap_volume", "complete").rows() == [
        (1.0, 1.0, 20, 10, True),
        (3.0, 3.0, 20, 10, True),
    ]


@pytest.mark.cases("V3")
def test_bars_of_what_is_traded_leave_marked_trades_out() -> None:
    trades = make_trades([(n, float(n + 1), 10, "@") for n in range(5)])
    marks = pl.Series("update", [None, "canceled", "CORRECTED", "another", ""])
    bars = build_bars(trades.with_columns(marks), STOCKS, BarLength.parse("2 trades"))
    assert bars.select("open", "close", "trade_count").rows() == [(1.0, 5.0, 2)]


@given(
    st.lists(
        st.tuples(st.integers(0, 900), st.sampled_from([1.5, 2.25, 99.0]), st.integers(1, 99)), max_size=60
    )
)
@settings(max_examples=examples(60), deadline=None)
def test_the_same_definition_makes_bars_of_time(rows: list[tuple[int, float, int]]) -> None:
    if not rows:
        return
    start = int(NOON.timestamp()) * 10**9
    traded = [{"symbol": "A", "ts": start + s * 10**9, "price": p, "size": v} for s, p, v in sorted(rows)]
    parts, plain = (expected.bars(traded, lambda trade: "all", n * 60 * 10**9) for n in (1, 5))
    template = make_bars(("A", 0, 1.0, 1, True))
    bars = pl.concat(
        template.with_columns(
            ts=pl.lit(ts).cast(TIME),
            volume=pl.lit(int(b["volume"])),
            vwap=pl.lit(float(b["pv"] / b["w"])),
            vwap_volume=pl.lit(int(b["w"])),
            **{name: pl.lit(b[name]) for name in ("open", "high", "low", "close")},
        )
        for (_, ts), b in parts.items()
    )
    found = merge_bars(bars, FIVE)
    for name in ("open", "high", "low", "close"):
        assert found[name].to_list() == [b[name] for b in plain.values()]
    assert found["volume"].to_list() == [int(b["volume"]) for b in plain.values()]
    assert found["vwap"].to_list() == pytest.approx([float(b["pv"] / b["w"]) for b in plain.values()])


def test_differences_from_the_services_bars_are_named() -> None:
    own = make_bars(
        ("A", 0, 1.0, 5, False),
        ("A", 1, 1.0, 1_999_999, True),
        ("A", 2, 2.0, 7, True),
        ("A", 3, 2.0, 7, False),
        ("C", 1, 2.0, 3, True),
        ("C", 2, 2.0, 3, True),
    )
    theirs = make_service_bars(
        ("A", 0, 9.0, 9),
        ("A", 1, 1.0, 2_000_000),
        ("A", 2, 2.0, 7),
        ("A", 3, 2.0, 8),
        ("B", 2, 3.0, 1),
        ("B", 3, 3.0, 1),
    )
    found = compare_bars(theirs, own).select("symbol", pl.col("ts").dt.minute(), "differing").rows()
    everything = ["open", "high", "low", "close", "volume", "trade_count", "vwap"]
    # A bar that one side lacks is a difference. Exceptions: our own bar is incomplete, or the service has
    # not sent all bars of the last minute.
    assert found == [("A", 1, ["volume"]), ("C", 1, everything), ("A", 2, []), ("B", 2, everything)]


def test_what_was_amended_after_the_services_last_word_is_not_compared_yet() -> None:
    theirs = make_service_bars(("A", 1, 1.0, 5), ("A", 2, 1.0, 5))
    own = make_bars(("A", 1, 1.0, 4, True), ("A", 2, 1.0, 4, True))
    later = pl.when(pl.col("ts").dt.minute() == 1).then(timedelta(seconds=90)).otherwise(timedelta())
    own = own.with_columns((pl.col("recv_ts") + later).cast(TIME))
    found = compare_bars(theirs, own)
    assert found.select(pl.col("ts").dt.minute(), "differing").rows() == [(2, ["volume"])]


@pytest.mark.parametrize(("price", "same"), [(0.3637264499167736, True), (0.3637272, False)])
def test_a_vwap_may_be_rounded_to_six_digits_as_the_service_does(price: float, same: bool) -> None:
    own = make_bars(("A", 1, 1.0, 5, True)).with_columns(vwap=pl.lit(price))
    theirs = make_service_bars(("A", 1, 1.0, 5)).with_columns(vwap=pl.lit(0.363726))
    assert compare_bars(theirs, own)["differing"].to_list() == [[] if same else ["vwap"]]
    tiny = 1.0423e-5
    own, theirs = (each.with_columns(vwap=pl.lit(v)) for each, v in ((own, tiny), (theirs, round(tiny, 6))))
    assert compare_bars(theirs, own)["differing"].to_list() == [[]]


@pytest.mark.parametrize(
    "text", ["", "5", "0m", "-1m", "5 m x", "1.5m", "99999999999999999d", "many trades", None, 5]
)
def test_malformed_lengths_are_refused(text: Any) -> None:
    with pytest.raises(ConfigError, match="is not a length of bars"):
        BarLength.parse(text)
