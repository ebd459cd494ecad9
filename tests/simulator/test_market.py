"""The simulated markets: made-up messages, and a REST path for each dataset that a stream declares."""

from __future__ import annotations

import itertools
import re

import pytest

from mdstream.simulator.generator import DAY
from mdstream.simulator.markets import MARKETS
from mdstream.simulator.past_records import bar_series
from mdstream.streams import STREAMS
from tests.decoding import decode, rows


@pytest.mark.parametrize("stream", STREAMS)
def test_a_star_has_symbols_on_every_stream(stream: str) -> None:
    market = MARKETS[stream].generator(1, {STREAMS[stream].subscriptions[0]: ("*",)})
    assert len(list(itertools.islice(market.messages(lambda: 1_700_000_000_000_000_000), 5))) == 5


def test_an_order_book_is_never_crossed_and_stays_as_deep_as_a_market_is() -> None:
    sides: tuple[dict[float, float], dict[float, float]] = {}, {}
    messages = MARKETS["crypto"].generator(1, {"orderbooks": ["BTC/USD"]}).messages(lambda: 1)
    for number, message in enumerate(itertools.islice(messages, 20_000)):
        if message.get("r"):
            assert number == 0
        for side, name in zip(sides, "ba", strict=True):
            for level in message[name]:
                if level["s"]:
                    side[level["p"]] = level["s"]
                else:
                    assert side.pop(level["p"], None) is not None, "only an existing level can be removed"
        bids, asks = sides
        assert not (bids and asks) or max(bids) < min(asks)
    assert all(5 < len(side) < 500 for side in sides)


def test_trades_are_amended_once_soon_or_minutes_later() -> None:
    ticks = itertools.count(0, 10_000_000)
    messages = MARKETS["stocks"].generator(3, {"trades": ["AAPL", "MSFT"]}).messages(lambda: next(ticks))
    traded, ages = dict[int, int](), list[float]()
    for message in itertools.islice(messages, 100_000):
        if message["T"] == "t":
            traded[message["i"]] = message["t"]
        else:
            number = message["i"] if message["T"] == "x" else message["oi"]
            ages.append((message["t"] - traded.pop(number)) / 1e9)
    assert len(ages) > 100
    assert min(ages) < 5
    assert max(ages) > 15


@pytest.mark.parametrize("timeframe", ["1Day", "1Hour", "1Min"])
@pytest.mark.parametrize("stream", ["crypto", "stocks"])
def test_a_daily_bar_begins_at_five_in_utc_and_others_on_their_grid(stream: str, timeframe: str) -> None:
    past = MARKETS[stream].past(1, "BTC/USD")
    series = bar_series(timeframe)
    assert series is not None
    start, end = 1_767_225_600_000_000_000, 1_767_225_600_000_000_000 + 3 * DAY  # 2026-01-01 to 2026-01-04
    times = [series.at(past, index)["t"] for index in series.indexes(start, end)]
    found = [time for time in times if start <= time < end]
    first = start + (5 * 3600 * 10**9 if timeframe == "1Day" else 0)
    assert found == list(range(first, end, series.step))
    assert past.snapshot(start)["dailyBar"]["t"] == start - 19 * 3600 * 10**9
    made = MARKETS[stream].generator(1, {"dailyBars": ["BTC/USD"]}).messages(lambda: start)
    assert next(iter(made))["t"] == start - 19 * 3600 * 10**9


def test_every_stream_has_a_market() -> None:
    assert list(MARKETS) == list(STREAMS)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_market_serves_every_channel_and_path_that_its_stream_declares(stream: str) -> None:
    spec, market = STREAMS[stream], MARKETS[stream]
    assert set(market.generator(1, {}).makers()) == set(spec.subscriptions)
    paths = [spec.fetch.path, *(history.path for history in spec.history)]
    paths += [spec.chain.path, spec.chain.listing] if spec.chain else []
    served = {re.sub(r"\{\w+\}", "{}", route.path) for route in market.routes}
    assert {re.sub(r"\{\w+\}", "{}", path) for path in paths} <= served
    assert all(map(market.is_symbol, market.universe))
    if market.asset_class:
        assert market.asset_class in spec.asset_classes


def test_perpetuals_say_what_the_service_documents() -> None:
    market, every = MARKETS["perps"], {name: ["*"] for name in STREAMS["perps"].subscriptions}
    messages = itertools.islice(market.generator(1, every).messages(lambda: 1), 2_000)
    keys = {message["T"]: set(message) - {"T", "S", "r"} for message in messages}
    assert keys == {
        "t": {"t", "p", "s", "i", "tks"},
        "q": {"t", "bp", "bs", "ap", "as"},
        **{kind: {"t", "o", "h", "l", "c", "v", "n", "vw"} for kind in "bud"},
        "o": {"t", "b", "a"},
        "p": {"t", "x", "ip", "mp", "fr", "oi", "ft"},
    }
    assert set(market.past(1, "BTC-PERP").snapshot(1)) == keys["p"] - {"x"}
    assert all(map(market.is_symbol, ("BTC-PERP", "BTCUSDT.P")))
    assert not market.is_symbol("BTC/USD")


def test_a_documented_body_of_pricing_becomes_a_row() -> None:
    body = (
        b'{"pricing":{"BTCUSDT.P":{"fr":0.000565699,"ft":"2022-05-27T10:18:00Z","ip":50702.8,'
        b'"mp":50652.3553,"oi":90.7367,"t":"2022-05-27T10:18:00Z"}}}'
    )
    decoded = decode("perps", body, kind=STREAMS["perps"].state_kind)
    [row] = rows("perps", decoded)["snapshots"]
    assert row == {
        "symbol": "BTCUSDT.P",
        "ts": 1_653_646_680_000_000_000,
        "exchange": None,
        "index_price": 50702.8,
        "mark_price": 50652.3553,
        "funding_rate": 0.000565699,
        "open_interest": 90.7367,
        "next_funding_ts": 1_653_646_680_000_000_000,
    }
