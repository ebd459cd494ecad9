"""Crypto perpetuals: the channels of spot pairs, and pricing: index and mark price, funding, open interest.

Sources: Alpaca's OpenAPI specification 1.1 (2026-06) and its Go client, for paths, symbols and pricing. The
specification has only the latest records. History is not documented: its paths follow those of spot pairs,
as in the Go client, and it is taken to need keys.
"""

from __future__ import annotations

from mdstream.streams.bar_rules import BarRules
from mdstream.streams.column_sets import TS, exchange, last
from mdstream.streams.crypto import COIN_CHANNELS, QUOTE, TRADE
from mdstream.streams.rest_spec import Fetch, HistorySpec
from mdstream.streams.spec import RECV_TS, SYMBOL, Channel, Column, Kind, StreamSpec

_PRICING = (
    SYMBOL,
    TS,
    exchange("exchange", "x"),
    Column("index_price", Kind.FLOAT, "ip"),
    Column("mark_price", Kind.FLOAT, "mp"),
    Column("funding_rate", Kind.FLOAT, "fr"),
    Column("open_interest", Kind.FLOAT, "oi"),
    Column("next_funding_ts", Kind.TIME, "ft"),
    RECV_TS,
)

PERPS = StreamSpec(
    name="perps",
    channels=(
        *COIN_CHANNELS,
        Channel("pricing", _PRICING, ("p",), ("pricing",), is_timely=True),
        Channel("snapshots", _PRICING),  # there are snapshots of pricing only
    ),
    feeds={"global": "/v1beta1/crypto-perps/global"},
    default_feed="global",
    codec="json",
    codecs=("json", "msgpack"),
    symbols=("BTC-PERP", "ETH-PERP", "SOL-PERP"),
    fetch=Fetch("/v1beta1/crypto-perps/{feed}/latest/pricing", member="pricing"),
    mute_after_s={"trades": 600.0, "quotes": 60.0, "orderbooks": 60.0, "bars": 180.0},
    always_open=True,
    is_default=False,
    history=(
        HistorySpec("trades", "/v1beta1/crypto-perps/{feed}/trades"),
        HistorySpec("quotes", "/v1beta1/crypto-perps/{feed}/quotes"),
        HistorySpec("bars", "/v1beta1/crypto-perps/{feed}/bars", bars=True, partition="year"),
    ),
    latest=(
        last("trade", "trades", TRADE),
        last("quote", "quotes", QUOTE),
        last("pricing", "pricing", _PRICING),
    ),
    bar_rules=BarRules(midpoints="quotes"),
    asset_classes=("crypto_perp",),
)
