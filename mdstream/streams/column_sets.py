"""Column sets that several streams share, and functions that nest one in another."""

from __future__ import annotations

from dataclasses import replace

from mdstream.streams.spec import RECV_TS, SYMBOL, Aspect, Channel, Column, Kind
from mdstream.venues.alpaca import bodies

TS = Column("ts", Kind.TIME, "t", required=True)
TAPE = Column("tape", Kind.CODE, "z", dictionary="tapes")


def exchange(name: str, key: str, side_of: str = "") -> Column:
    return Column(name, Kind.CODE, key, dictionary="exchanges", side_of=side_of)


def conditions(kind: Kind, dictionary: str, name: str = "conditions", key: str = "c") -> Column:
    """Return the column of conditions: a list of codes (`CONDITIONS`, stocks) or one (`CODE`, options)."""
    return Column(name, kind, key, dictionary=dictionary)


def quote_side(side: str, letter: str) -> tuple[Column, Column]:
    """Return price and size of one side of a quote, both null if the side is absent."""
    price = f"{side}_price"
    return (
        Column(price, Kind.FLOAT, letter + "p", absent_at_zero=True),
        Column(f"{side}_size", Kind.FLOAT, letter + "s", side_of=price),
    )


PRICE = Column("price", Kind.FLOAT, "p", essential=True)
SIZE = Column("size", Kind.FLOAT, "s", essential=True)


def exchange_trade(kind: Kind) -> tuple[Column, ...]:
    """Return the columns of a trade on an exchange, with conditions of this kind."""
    return SYMBOL, TS, PRICE, SIZE, exchange("exchange", "x"), conditions(kind, "trade_conditions")


def exchange_quote(kind: Kind) -> tuple[Column, ...]:
    """Return the columns of a quote with an exchange on each side, with conditions of this kind."""
    return (
        SYMBOL,
        TS,
        *quote_side("bid", "b"),
        exchange("bid_exchange", "bx", side_of="bid_price"),
        *quote_side("ask", "a"),
        exchange("ask_exchange", "ax", side_of="ask_price"),
        conditions(kind, "quote_conditions"),
    )


BAR_KINDS = {"b": "minute", "u": "updated", "d": "daily"}

BARS = (
    SYMBOL,
    TS,
    Column("open", Kind.FLOAT, "o", essential=True),
    Column("high", Kind.FLOAT, "h", essential=True),
    Column("low", Kind.FLOAT, "l", essential=True),
    Column("close", Kind.FLOAT, "c", essential=True),
    Column("volume", Kind.FLOAT, "v", essential=True),
    Column("trade_count", Kind.INT, "n"),
    Column("vwap", Kind.FLOAT, "vw"),
    Column("kind", Kind.CODE, bodies.TYPE, values=BAR_KINDS, dictionary="bar_kinds"),
    RECV_TS,
)
"""The columns of the service's OHLCV bars. Minute, updated and daily bars differ only in `T`."""


def bars_channel(types: tuple[str, ...] = (), subscriptions: tuple[str, ...] = ()) -> Channel:
    """Return the channel of the service's bars. Each data feed has its own; an update is the same bar."""
    identity = ("feed", "timeframe", "adjustment", "symbol", "ts")
    return Channel("bars", BARS, types, subscriptions, identity=identity, one_per=identity[-2:])


QUOTE_IDENTITY = ("symbol", "ts", "bid_price", "bid_size", "ask_price", "ask_size")
"""Several quotes of a symbol may have the same time, but two sources say the same of each."""


def nest(prefix: str, key: str, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """Return columns for sub-object `key`, with a prefix in their names.

    None is required, because the sub-object may be absent. What a row requires is essential to it.
    """
    return tuple(
        replace(
            column,
            name=f"{prefix}_{column.name}",
            key=f"{key}.{column.key}",
            required=False,
            essential=column.required or column.essential,
            side_of=column.side_of and f"{prefix}_{column.side_of}",
        )
        for column in columns
        if column.key not in (bodies.SYMBOL, bodies.TYPE, "")
    )


def snapshot(trade: tuple[Column, ...], quote: tuple[Column, ...]) -> tuple[Column, ...]:
    """Return the columns of the service's snapshots; every member may be missing."""
    return (
        SYMBOL,
        *nest("trade", "latestTrade", trade),
        *nest("quote", "latestQuote", quote),
        *nest("minute", "minuteBar", BARS),
        *nest("daily", "dailyBar", BARS),
        *nest("prev_daily", "prevDailyBar", BARS),
    )


def last(name: str, channel: str, columns: tuple[Column, ...]) -> Aspect:
    """Return the aspect with the last row of a channel: `trade_price`, `trade_ts`, `trade_recv_ts`."""
    prefixed = [
        replace(
            column,
            name=f"{name}_{column.name}",
            required=False,
            essential=False,
            side_of=column.side_of and f"{name}_{column.side_of}",
        )
        for column in columns
        if column.key not in (bodies.SYMBOL, bodies.TYPE, "")
    ]
    recv = Column(f"{name}_recv_ts", Kind.TIME)
    return Aspect(name, (*prefixed, recv), f"{name}_ts", recv.name, channel)
