"""Rows of a store to messages: the reverse of decoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from mdstream.simulator.encode import Time
from mdstream.simulator.generator import Message
from mdstream.streams.bar_rules import split_conditions
from mdstream.streams.spec import Channel, Column, Kind

Row = Mapping[str, Any]

_BAR_TYPES = {"1Min": "b", "1Day": "d"}
"""Timeframe that a stream sends → `T` of its messages."""


def messages(channel: Channel, rows: Iterable[Row]) -> Iterator[tuple[int, Message]]:
    """Yield the messages of a channel's rows, sorted by symbol and time, each with its time in ns.

    Rows of an order book that were received together are one message. Bars of timeframes that no stream
    sends are left out.
    """
    time = channel.time
    if channel.levels:
        yield from _books(channel, rows, time)
        return
    for row in rows:
        kind = channel.types[0]
        if "timeframe" in row:
            if row["timeframe"] not in _BAR_TYPES:
                continue
            kind = _BAR_TYPES[row["timeframe"]]
        message: Message = {"T": kind}
        for column in channel.columns:
            if column.key and column.values is None:
                _put(message, column, row)
        yield row[time], message


def _put(message: Message, column: Column, row: Row) -> None:
    value = row.get(column.name)
    if value is None:
        if column.absent_at_zero or (column.side_of and row.get(column.side_of) is None):
            message[column.key] = "" if column.kind is Kind.CODE else 0
        return
    match column.kind:
        case Kind.TIME:
            value = Time(value)
        case Kind.CONDITIONS:
            value = split_conditions(value)
        case Kind.JSON:
            value = orjson.loads(value)
    message[column.key] = value


def _books(channel: Channel, rows: Iterable[Row], time: str) -> Iterator[tuple[int, Message]]:
    assert channel.levels is not None
    keys = {side: key for key, side in channel.levels.items()}
    last: tuple[Any, ...] = ()
    message: Message = {}
    for row in rows:
        of = row["symbol"], row[time], row["recv_ts"], row["reset"]
        if of != last:
            if message:
                yield last[1], message
            last = of
            message = {"T": channel.types[0], "S": row["symbol"], "t": Time(row[time])}
            message |= {key: [] for key in channel.levels}
            if row["reset"]:
                message["r"] = True
        if row["side"] is not None:
            message[keys[row["side"]]].append({"p": row["price"], "s": row["size"]})
    if message:
        yield last[1], message
