"""Stocks: the SIP, IEX and overnight data feeds."""

from __future__ import annotations

from mdstream.streams.bar_rules import BarRules
from mdstream.streams.column_sets import (
    QUOTE_IDENTITY,
    TAPE,
    TS,
    bars_channel,
    conditions,
    exchange,
    exchange_quote,
    exchange_trade,
    last,
    snapshot,
)
from mdstream.streams.rest_spec import Fetch, HistorySpec
from mdstream.streams.spec import RECV_TS, SYMBOL, Channel, Column, Kind, StreamSpec

_TRADE = (*exchange_trade(Kind.CONDITIONS), TAPE, Column("id", Kind.UINT, "i"), RECV_TS)

_UPDATE = Column("update", Kind.CODE, "u", dictionary="trade_updates")
"""Only history has it, of trades that are not valid. Known marks: `canceled`; `incorrect` (replaced by a
correction); `corrected` (itself the correction of an earlier trade). A trade without a mark is valid.
"""

_TRADE_IDENTITY = ("symbol", "ts", "exchange", "id", "price", "size")
"""On exchange D an id is unique only within a reporting facility, which the service does not send. Two
trades of one symbol may have the same id and time, but then differ in price or size.
"""

_QUOTE = (*exchange_quote(Kind.CONDITIONS), TAPE, RECV_TS)

_QUOTE_IDENTITY = (*QUOTE_IDENTITY, "bid_exchange", "ask_exchange")

_STATUS = (
    SYMBOL,
    TS,
    Column("status_code", Kind.TEXT, "sc"),
    Column("status_message", Kind.TEXT, "sm"),
    Column("reason_code", Kind.TEXT, "rc"),
    Column("reason_message", Kind.TEXT, "rm"),
    TAPE,
    RECV_TS,
)

_LULD = (
    SYMBOL,
    TS,
    Column("limit_up_price", Kind.FLOAT, "u"),
    Column("limit_down_price", Kind.FLOAT, "d"),
    Column("indicator", Kind.CODE, "i", dictionary="luld_indicators"),
    TAPE,
    RECV_TS,
)

_CORRECTION = (
    SYMBOL,
    TS,
    exchange("exchange", "x"),
    Column("original_id", Kind.UINT, "oi"),
    Column("original_price", Kind.FLOAT, "op"),
    Column("original_size", Kind.FLOAT, "os"),
    conditions(Kind.CONDITIONS, "trade_conditions", "original_conditions", "oc"),
    Column("corrected_id", Kind.UINT, "ci"),
    Column("corrected_price", Kind.FLOAT, "cp"),
    Column("corrected_size", Kind.FLOAT, "cs"),
    conditions(Kind.CONDITIONS, "trade_conditions", "corrected_conditions", "cc"),
    TAPE,
    RECV_TS,
)

_CANCEL = (
    SYMBOL,
    TS,
    Column("id", Kind.UINT, "i"),
    exchange("exchange", "x"),
    Column("price", Kind.FLOAT, "p"),
    Column("size", Kind.FLOAT, "s"),
    Column("action", Kind.CODE, "a", dictionary="cancel_actions"),
    TAPE,
    RECV_TS,
)

_IMBALANCE = (SYMBOL, TS, Column("price", Kind.FLOAT, "p"), TAPE, RECV_TS)

_BAR_RULES = BarRules(
    volume_only={
        **dict.fromkeys("CHINRUV7PZ4", ""),
        "B": "AB",  # average price; on tape C it is a bunched trade, which has no effect
        "G": "C",
        "W": "CO",
    },
    excluded=dict.fromkeys("MQ9", ""),
    has_condition_list=True,
    corrections="corrections",
    cancels="cancels",
    mark=_UPDATE.name,
)

STOCKS = StreamSpec(
    name="stocks",
    channels=(
        Channel(
            "trades",
            (*_TRADE[:-1], _UPDATE, RECV_TS),
            ("t",),
            ("trades",),
            is_timely=True,
            identity=_TRADE_IDENTITY,
            numbered_by="id",
        ),
        Channel("quotes", _QUOTE, ("q",), ("quotes",), is_timely=True, identity=_QUOTE_IDENTITY),
        bars_channel(("b", "u", "d"), ("bars", "updatedBars", "dailyBars")),
        Channel("statuses", _STATUS, ("s",), ("statuses",)),
        Channel("lulds", _LULD, ("l",), ("lulds",)),
        Channel("imbalances", _IMBALANCE, ("i",), ("imbalances",)),
        Channel("corrections", _CORRECTION, ("c",), ("corrections",)),
        Channel("cancels", _CANCEL, ("x",), ("cancelErrors",)),
        Channel("snapshots", (*snapshot(_TRADE, _QUOTE), RECV_TS)),
    ),
    feeds={
        "iex": "/v2/iex",
        "sip": "/v2/sip",
        "delayed_sip": "/v2/delayed_sip",
        "boats": "/v1beta1/boats",
        "overnight": "/v1beta1/overnight",
        "otc": "/v2/otc",
        "test": "/v2/test",
    },
    default_feed="iex",
    codec="json",
    codecs=("json", "msgpack"),
    symbols=("AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "AMD", "SPY", "QQQ"),
    fetch=Fetch("/v2/stocks/snapshots", feed_parameter=True),
    mute_after_s={"trades": 120.0, "quotes": 60.0, "bars": 180.0},
    always_open=False,
    latest=(last("trade", "trades", _TRADE), last("quote", "quotes", _QUOTE)),
    bar_rules=_BAR_RULES,
    history=(
        HistorySpec("trades", "/v2/stocks/trades", feed_parameter=True, mapped=True),
        HistorySpec("quotes", "/v2/stocks/quotes", feed_parameter=True, mapped=True),
        HistorySpec(
            "bars",
            "/v2/stocks/bars",
            feed_parameter=True,
            bars=True,
            adjusted=True,
            partition="year",
            mapped=True,
        ),
    ),
    asset_classes=("us_equity",),
    instrument="equity",
    added_by_server={"corrections": "trades", "cancelErrors": "trades"},
)
