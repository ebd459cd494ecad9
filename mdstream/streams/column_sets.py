"""Column sets that several stream types share, and the way one is nested inside another."""

from __future__ import annotations

from dataclasses import replace

from mdstream.streams.spec import RECV_TS, SYMBOL, Aspect, Channel, Column, Kind
from mdstream.venues.alpaca import bodies

TS = Column("ts", Kind.TIME, "t", required=True)
TAPE = Column("tape", Kind.CODE, "z", dictionary="tapes")


def exchange(name: str, key: str, side_of: str = "") -> Column:
    return Column(name, Kind.CODE, key, dictionary="exchanges", side_of=side_of)


def conditions(kind: Kind, dictionary: str, name: str = "conditions", key: str = "c") -> Column:
    """Conditions: a list of codes for stocks (`CONDITIONS`), one text for options (`CODE`)."""
    return Column(name, kind, key, dictionary=dictionary)


def quote_side(side: str, letter: str, size: Kind) -> tuple[Column, Column]:
    """Price and size of one side of a quote, both null where the side is absent."""
    price = f"{side}_price"
    return (
        Column(price, Kind.FLOAT, letter + "p", absent_at_zero=True),
        Column(f"{side}_size", size, letter + "s", side_of=price),
    )


def bars(volume: Kind) -> tuple[Column, ...]:
    """OHLCV bars as the service sends them: minute, updated and daily bars differ by `T` only."""
    return (
        SYMBOL,
        TS,
        Column("open", Kind.FLOAT, "o"),
        Column("high", Kind.FLOAT, "h"),
        Column("low", Kind.FLOAT, "l"),
        Column("close", Kind.FLOAT, "c"),
        Column("volume", volume, "v"),
        Column("trade_count", Kind.INT, "n"),
        Column("vwap", Kind.FLOAT, "vw"),
        Column("kind", Kind.CODE, bodies.TYPE, values=BAR_KINDS, dictionary="bar_kinds"),
        RECV_TS,
    )


BAR_KINDS = {"b": "minute", "u": "updated", "d": "daily"}


def bars_channel(volume: Kind, types: tuple[str, ...] = (), subscriptions: tuple[str, ...] = ()) -> Channel:
    """The channel of the service's bars. A bar is made of what its feed has; an update is the same bar."""
    identity = ("feed", "timeframe", "adjustment", "symbol", "ts")
    return Channel("bars", bars(volume), types, subscriptions, identity=identity)


QUOTE_IDENTITY = ("symbol", "ts")


def nest(prefix: str, key: str, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The same columns inside sub-object `key`, their names prefixed; none of them required."""
    return tuple(
        replace(
            column,
            name=f"{prefix}_{column.name}",
            key=f"{key}.{column.key}",
            required=False,
            side_of=column.side_of and f"{prefix}_{column.side_of}",
        )
        for column in columns
        if column.key not in (bodies.SYMBOL, bodies.TYPE, "")
    )


def snapshot(trade: tuple[Column, ...], quote: tuple[Column, ...], volume: Kind) -> tuple[Column, ...]:
    """A symbol's state as the snapshot endpoints give it; every member may be missing."""
    bar = bars(volume)
    return (
        SYMBOL,
        *nest("trade", "latestTrade", trade),
        *nest("quote", "latestQuote", quote),
        *nest("minute", "minuteBar", bar),
        *nest("daily", "dailyBar", bar),
        *nest("prev_daily", "prevDailyBar", bar),
    )


def last(name: str, channel: str, columns: tuple[Column, ...]) -> Aspect:
    """The last row of a channel as an aspect of its symbol: `trade_price`, `trade_ts`, `trade_recv_ts`."""
    named = [
        replace(
            column,
            name=f"{name}_{column.name}",
            required=False,
            side_of=column.side_of and f"{name}_{column.side_of}",
        )
        for column in columns
        if column.key not in (bodies.SYMBOL, bodies.TYPE, "")
    ]
    recv = Column(f"{name}_recv_ts", Kind.TIME)
    return Aspect(name, (*named, recv), f"{name}_ts", recv.name, channel)
