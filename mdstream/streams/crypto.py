"""Crypto spot pairs: trades, quotes, bars and full order books."""

from __future__ import annotations

from mdstream.streams.bar_rules import BarRules
from mdstream.streams.column_sets import (
    PRICE,
    QUOTE_IDENTITY,
    SIZE,
    TS,
    bars_channel,
    last,
    quote_side,
    snapshot,
)
from mdstream.streams.rest_spec import Fetch, HistorySpec
from mdstream.streams.spec import RECV_TS, SYMBOL, Channel, Column, Kind, StreamSpec

TRADE = (
    SYMBOL,
    TS,
    PRICE,
    SIZE,
    Column("id", Kind.INT, "i"),
    Column("taker_side", Kind.CODE, "tks", dictionary="taker_sides"),
    RECV_TS,
)

_TRADE_IDENTITY = ("feed", "symbol", "ts", "id", "price", "size")
"""Each data feed is a venue of its own."""

QUOTE = (SYMBOL, TS, *quote_side("bid", "b"), *quote_side("ask", "a"), RECV_TS)

# A size is the new absolute size of its level; 0 removes the level. `reset` marks every level of a message
# that replaces the whole book. Such a message without levels becomes one row without side, price and size,
# so that the reset is not lost.
_BOOK = (
    SYMBOL,
    TS,
    Column("side", Kind.CODE, "side", dictionary="book_sides"),
    PRICE,
    SIZE,
    Column("reset", Kind.BOOL, "r", default=False),
    RECV_TS,
)

COIN_CHANNELS = (
    Channel(
        "trades", TRADE, ("t",), ("trades",), is_timely=True, identity=_TRADE_IDENTITY, numbered_by="id"
    ),
    Channel("quotes", QUOTE, ("q",), ("quotes",), is_timely=True, identity=("feed", *QUOTE_IDENTITY)),
    bars_channel(("b", "u", "d"), ("bars", "updatedBars", "dailyBars")),
    Channel("orderbooks", _BOOK, ("o",), ("orderbooks",), levels={"b": "bid", "a": "ask"}),
)
"""The channels that spot pairs and perpetuals share."""

CRYPTO = StreamSpec(
    name="crypto",
    channels=(*COIN_CHANNELS, Channel("snapshots", (*snapshot(TRADE, QUOTE), RECV_TS))),
    feeds={name: f"/v1beta3/crypto/{name}" for name in ("us", "us-1", "us-2", "eu-1", "bs-1")},
    default_feed="us",
    codec="json",
    codecs=("json", "msgpack"),
    symbols=("BTC/USD", "ETH/USD", "SOL/USD", "LTC/USD", "DOGE/USD"),
    fetch=Fetch("/v1beta3/crypto/{feed}/snapshots"),
    mute_after_s={"trades": 600.0, "quotes": 60.0, "orderbooks": 60.0, "bars": 180.0},
    always_open=True,
    history=(
        HistorySpec("trades", "/v1beta3/crypto/{feed}/trades", needs_keys=False),
        HistorySpec("quotes", "/v1beta3/crypto/{feed}/quotes", needs_keys=False),
        HistorySpec("bars", "/v1beta3/crypto/{feed}/bars", bars=True, partition="year", needs_keys=False),
    ),
    latest=(last("trade", "trades", TRADE), last("quote", "quotes", QUOTE)),
    bar_rules=BarRules(midpoints="quotes"),
    asset_classes=("crypto",),
    instrument="currency_pair",
)
