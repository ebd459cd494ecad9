"""A range of a store as a source for streams and REST.

scan, a quarter of an hour at a time ─► rows ─► messages of all channels, by time ─► connections
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from operator import itemgetter
from typing import Any

import polars as pl

from mdstream.errors import ConfigError, NoStoreError
from mdstream.simulator.generator import Message
from mdstream.simulator.markets import MARKETS
from mdstream.simulator.replay.messages import messages
from mdstream.store.arrival import sort_by_arrival
from mdstream.store.catalogue import scan
from mdstream.store.query import parse_time
from mdstream.streams import STREAMS
from mdstream.streams.spec import Channel, Kind
from mdstream.venues.alpaca.parameters import format_time

SLICE_NS = 15 * 60 * 1_000_000_000
"""Time span that is read at once."""

When = str | date | datetime


class StoredRange:
    """The rows of `streams` in a store from `start` to `end` (default: all). Immutable once made."""

    def __init__(
        self,
        store: str,
        streams: Sequence[str],
        start: When | None = None,
        end: When | None = None,
        feed: str = "",
    ) -> None:
        self._store = store
        self._feed = feed
        self._channels: dict[str, list[Channel]] = {}
        spans: list[tuple[int, int]] = []
        events: list[int] = []
        given = (
            parse_time(start, "start") if start is not None else None,
            parse_time(end, "end", whole_day=True) if end is not None else None,
        )
        for name in streams:
            for channel in STREAMS[name].channels:
                if channel.types and (span := self._span(name, channel, given)):
                    self._channels.setdefault(name, []).append(channel)
                    spans.append(span)
                    # A day's bar has the time of its midnight, too early for the start of a replay.
                    events += [span[0]] if channel.name != "bars" else []
        if not spans:
            raise ConfigError(f"nothing to replay: {store} has no rows of these streams and times")
        self._first = given[0] if given[0] is not None else min(first for first, _ in spans)
        self.first = given[0] if given[0] is not None else min(events, default=self._first)
        self.past = given[1] if given[1] is not None else max(last for _, last in spans) + 1

    @property
    def streams(self) -> list[str]:
        """The streams with rows."""
        return list(self._channels)

    def slices(
        self, stream: str, subscription: Mapping[str, Sequence[str]]
    ) -> Iterator[list[tuple[int, Message]]]:
        """Yield the messages of a subscription, each with its time in ns, one list for each slice."""
        wanted = [
            (channel, symbols)
            for channel in self._channels.get(stream, ())
            for symbols in [_symbols(stream, channel, subscription)]
            if symbols
        ]
        numbers: set[int] = set()
        for channel, symbols in wanted:
            numbers.update(self._with_rows(stream, channel, symbols))
        for number in sorted(numbers):
            first = max(self._first, number * SLICE_NS)
            past = min(self.past, (number + 1) * SLICE_NS)
            found = [
                sorted(self._messages(stream, channel, symbols, first, past), key=itemgetter(0))
                for channel, symbols in wanted
            ]
            if whole := list(heapq.merge(*found, key=itemgetter(0))):
                yield whole

    def state(self, stream: str, symbols: Sequence[str]) -> dict[str, Message]:
        """Return the first rows of each symbol as the members of its state."""
        members = MARKETS[stream].state_members
        found: dict[str, Message] = {}
        for channel in self._channels.get(stream, ()):
            if channel.name not in members:
                continue
            rows = self._rows(stream, channel, symbols, self._first, self.past)
            firsts = sort_by_arrival(rows, channel.time).unique("symbol", keep="first").collect()
            for _, message in messages(channel, _plain(firsts)):
                record = {key: value for key, value in message.items() if key not in ("T", "S")}
                member = members[channel.name]
                found.setdefault(message["S"], {}).update({member: record} if member else record)
        return found

    def chain(self, underlying: str) -> list[str]:
        """Return the contracts of an underlying that have rows."""
        found: set[str] = set()
        for stream, channels in self._channels.items():
            if (chain := STREAMS[stream].chain) is None:
                continue
            for channel in channels:
                rows = self._rows(stream, channel, None, self._first, self.past)
                symbols = rows.select("symbol").unique().collect()["symbol"]
                found.update(s for s in symbols if chain.is_root_of(chain.underlying_of(s), underlying))
        return sorted(found)

    def _span(
        self, stream: str, channel: Channel, given: tuple[int | None, int | None]
    ) -> tuple[int, int] | None:
        """Return the first and the last time of a channel; None if it has no rows."""
        time = channel.time
        try:
            rows = self._rows(stream, channel, None, *given)
        except NoStoreError:
            return None
        ends = rows.select(pl.col(time).min().alias("a"), pl.col(time).max().alias("b")).collect()
        first, last = (ends[name].dt.epoch("ns").item() for name in ("a", "b"))
        return None if first is None else (first, last)

    def _rows(
        self,
        stream: str,
        channel: Channel,
        symbols: Sequence[str] | None,
        first: int | None,
        past: int | None,
    ) -> pl.LazyFrame:
        dataset = f"{stream}.{channel.name}"
        rows = scan(
            dataset,
            self._store,
            symbols=symbols,
            feed=self._feed,
            amended=True,
            numbered=True,
            unknown="empty",
        )
        time = pl.col(channel.time)
        if first is not None:
            rows = rows.filter(time >= _when(first))
        return rows if past is None else rows.filter(time < _when(past))

    def _with_rows(self, stream: str, channel: Channel, symbols: Sequence[str]) -> list[int]:
        """Return the numbers of the slices (since 1970) with rows of a channel."""
        chosen = None if "*" in symbols else symbols
        rows = self._rows(stream, channel, chosen, self._first, self.past)
        number = (pl.col(channel.time).dt.epoch("ns") // SLICE_NS).alias("number")
        return rows.select(number).unique().collect()["number"].to_list()

    def _messages(
        self, stream: str, channel: Channel, symbols: Sequence[str], first: int, past: int
    ) -> Iterator[tuple[int, Message]]:
        chosen = None if "*" in symbols else symbols
        rows = self._rows(stream, channel, chosen, first, past)
        order = ["symbol"] if any(c.kind is Kind.SYMBOL for c in channel.columns) else []
        yield from messages(channel, _plain(sort_by_arrival(rows, *order, channel.time).collect()))


def _symbols(stream: str, channel: Channel, subscription: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the symbols subscribed on a channel, or on the one that the server adds it to."""
    added = STREAMS[stream].added_by_server
    names = {*channel.subscriptions, *(added.get(n, "") for n in channel.subscriptions)}
    return sorted({s for name in names for s in subscription.get(name, ())})


def _when(ns: int) -> pl.Expr:
    return pl.lit(ns).cast(pl.Datetime("ns", "UTC"))


def _plain(rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield rows as plain values, with times in ns."""
    times = [name for name, kind in rows.schema.items() if kind == pl.Datetime("ns", "UTC")]
    yield from rows.with_columns(pl.col(times).dt.epoch("ns")).iter_rows(named=True)


def describe_range(source: StoredRange) -> str:
    """Return the range as text."""
    return f"{format_time(source.first)} to {format_time(source.past)}"
