from __future__ import annotations

from mdstream.streams.column_sets import TS, bars_channel, exchange, last, nest, quote_side
from mdstream.streams.spec import RECV_TS, SYMBOL, Column, Kind

QUOTE = (SYMBOL, TS, *quote_side("bid", "b"), exchange("bid_exchange", "bx", side_of="bid_price"), RECV_TS)


def test_a_side_of_a_quote_is_absent_as_a_whole() -> None:
    price, size, letter = QUOTE[2:5]
    assert (price.key, price.absent_at_zero) == ("bp", True)
    assert (size.key, size.side_of) == ("bs", "bid_price")
    assert letter.side_of == "bid_price"


def test_nested_columns_are_prefixed_optional_and_keep_their_sides() -> None:
    columns = nest("quote", "latestQuote", QUOTE)
    assert [(c.name, c.key) for c in columns] == [
        ("quote_ts", "latestQuote.t"),
        ("quote_bid_price", "latestQuote.bp"),
        ("quote_bid_size", "latestQuote.bs"),
        ("quote_bid_exchange", "latestQuote.bx"),
    ]
    assert not any(column.required for column in columns)
    assert [c.name for c in columns if c.essential] == ["quote_ts"], "what a quote requires"
    assert [c.side_of for c in columns] == ["", "", "quote_bid_price", "quote_bid_price"]


def test_the_last_row_of_a_channel_is_an_aspect_with_its_own_times() -> None:
    aspect = last("quote", "quotes", QUOTE)
    assert (aspect.time, aspect.recv, aspect.channel) == ("quote_ts", "quote_recv_ts", "quotes")
    assert [c.name for c in aspect.columns][-1] == "quote_recv_ts"


def test_bars_of_all_kinds_are_one_channel() -> None:
    channel = bars_channel(("b", "u"), ("bars", "updatedBars"))
    kind = channel.column("kind")
    assert kind.key == "T"
    assert kind.values is not None
    assert set(channel.types) <= set(kind.values)
    assert channel.column("volume") == Column("volume", Kind.FLOAT, "v", essential=True)
