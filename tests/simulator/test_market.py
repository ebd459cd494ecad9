from __future__ import annotations

import itertools

import pytest

from mdstream.simulator.markets import MARKETS
from mdstream.streams import STREAMS


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
                    assert side.pop(level["p"], None) is not None, "only what is there can go"
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
