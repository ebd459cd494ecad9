"""What is asked of the past, checked, and cut into shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple, TypedDict, Unpack

from mdstream.config import setting
from mdstream.errors import ConfigError
from mdstream.store.query import as_list, parse_time, to_ns, to_utc
from mdstream.streams import STREAMS
from mdstream.streams.datasets import datasets, history_of, resolve_dataset
from mdstream.streams.rest_spec import History
from mdstream.streams.spec import Channel, PayloadKind, StreamSpec
from mdstream.venues.alpaca.timeframes import ADJUSTMENTS, length_ns, minutes_of

DAY_NS = 86_400 * 1_000_000_000
_MINUTE_NS = 60 * 1_000_000_000
_FOREVER_NS = (1 << 63) - 1
_ROWS_A_SHARD = 9_000
"""Bars of a shard, if none is missing: a page, at most."""

EVERYTHING = "*"
"""Stands for a symbol where the rows of all of them are asked for at once (`History.everything`)."""


class HistoryOptions(TypedDict, total=False):
    """Which rows of a dataset are wanted, beside symbols and times; flags of `mdstream backfill`."""

    feed: Annotated[str, setting("Feed, as sip or iex; empty: the stream's own.", flag="--feed")]
    timeframe: Annotated[
        str, setting("Length of bars: 1Min (default), 15Min, 1Hour, 1Day, ...", flag="--timeframe")
    ]
    adjustment: Annotated[
        str,
        setting(f"Adjustment of stock bars: {', '.join(ADJUSTMENTS)} (default raw).", flag="--adjustment"),
    ]
    priority: Annotated[
        str | Sequence[str], setting("Symbols to fetch before all others; patterns too.", flag="--priority")
    ]


class Shard(NamedTuple):
    """One symbol's stretch of time: `first` is in it, `past` is not; ns since 1970."""

    symbol: str
    first: int
    past: int


@dataclass(frozen=True, slots=True)
class Request:
    """A range of one dataset. `feed`, `timeframe` and `adjustment` are empty where it has none."""

    dataset: str
    symbols: tuple[str, ...]
    first: int
    past: int
    feed: str
    timeframe: str = ""
    adjustment: str = ""
    urgent: frozenset[str] = frozenset()
    """Symbols that come before all others."""

    @property
    def spec(self) -> StreamSpec:
        return STREAMS[self.dataset.partition(".")[0]]

    @property
    def history(self) -> History:
        return history_of(self.dataset)

    @property
    def channel(self) -> Channel:
        """The channel whose rows the records become."""
        return self.spec.by_name[self.history.rows or self.history.channel]

    @property
    def kind(self) -> PayloadKind:
        """What the pages are."""
        return self.spec.kind_of(self.history)

    @property
    def variant(self) -> str:
        """What tells this apart from other data of the same symbols and times."""
        return "/".join(filter(None, (self.feed, self.timeframe, self.adjustment)))

    def partition(self, first: int) -> dict[str, str]:
        """The store's partition of a shard that begins at `first`."""
        when = to_utc(first)
        found = {"feed": self.feed}
        if self.timeframe:
            found["timeframe"] = self.timeframe
        if self.adjustment:
            found["adjustment"] = self.adjustment
        by_date = self.history.partition == "date"
        return {**found, **({"date": f"{when:%Y-%m-%d}"} if by_date else {"year": f"{when:%Y}"})}

    def until(self, past: int) -> int:
        """Up to when to ask for rows that begin before `past`: of the last bar the whole, wherever bars of
        its length begin (those that divide an hour, at the hour; of others the service does not say).
        """
        if not self.timeframe:
            return past
        length = length_ns(self.timeframe)
        is_on_the_hour = 60 * _MINUTE_NS % length == 0
        return -(-past // length) * length if is_on_the_hour else past + length

    def kept(self, shard: Shard) -> tuple[int, int]:
        """The span of the rows that belong to a shard: bars that begin in it, and of all else whatever the
        service gives for it.
        """
        return (shard.first, shard.past) if self.timeframe else (0, _FOREVER_NS)

    def shards(self) -> Iterator[Shard]:
        """All of it: urgent symbols first, then by time, in the order of the symbols."""
        for wanted in (True, False):
            symbols = [s for s in self.symbols if (s in self.urgent) is wanted]
            for first, past in self._stretches() if symbols else ():
                for symbol in symbols:
                    yield Shard(symbol, first, past)

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """The range, cut at whole days, so that none crosses a partition's end."""
        days = self._days()
        at = self.first
        while at < self.past:
            day = at // DAY_NS
            ends = [(day // days + 1) * days * DAY_NS]
            if self.history.partition == "year":
                ends.append(to_ns(datetime(to_utc(at).year + 1, 1, 1, tzinfo=UTC)))
            past = min(self.past, *ends)
            yield at, past
            at = past

    def _days(self) -> int:
        """Days of a shard."""
        if self.history.partition == "date":
            return 1
        if not self.timeframe:
            return 1 if EVERYTHING in self.symbols else self.history.shard_days
        minutes = minutes_of(self.timeframe)
        return max(1, min(366, minutes * _ROWS_A_SHARD // 1440))


def make_request(
    dataset: str,
    symbols: str | Sequence[str],
    start: str | date | datetime,
    end: str | date | datetime,
    *,
    now: datetime,
    **options: Unpack[HistoryOptions],
) -> Request:
    """A request, checked. Raises `ConfigError` that says what is wrong and what would be right.

    Times without a zone are UTC. A date as `end` includes that day. What lies less than a minute before
    `now`, or after it, is left out: it is not complete yet; of bars those that were not over by then.
    Where the service gives the rows of all symbols at once, no symbol, or `*` among them, means all.
    """
    dataset = resolve_dataset(dataset)
    history, stream = history_of(dataset), STREAMS[dataset.partition(".")[0]]
    first, past = parse_time(start, "start"), parse_time(end, "end", whole_day=True)
    kind = _kind_of_bars(dataset, history, options.get("timeframe", ""), options.get("adjustment", ""))
    settled = _settled(now, kind[0])
    if first >= past:
        raise ConfigError(f"start {start} is not before end {end}")
    if first >= settled:
        what = f"no bar of {kind[0]} that began then is over" if kind[0] else "it is not in the past"
        raise ConfigError(f"start {start}: {what}")
    feed = options.get("feed") or stream.default_feed
    if feed not in stream.feeds:
        raise ConfigError(f"feed {feed!r} is not one of {', '.join(stream.feeds)}")
    names = _checked_symbols(stream, history, symbols)
    urgent = as_list(options.get("priority", ()))
    first_ones = [[name for name in names if fnmatchcase(name, each)] for each in urgent]
    if odd := [each for each, found in zip(urgent, first_ones, strict=True) if not found]:
        raise ConfigError(f"{odd[0]!r} shall come first, and is not among the symbols")
    before = frozenset(name for found in first_ones for name in found)
    return Request(dataset, names, first, min(past, settled), feed, *kind, before)


def _settled(now: datetime, timeframe: str) -> int:
    """Up to when rows are complete. A bar has the time of its begin, and is complete when it is over."""
    settled = to_ns(now) - _MINUTE_NS
    return settled - length_ns(timeframe) + 1 if timeframe else settled


def _checked_symbols(stream: StreamSpec, history: History, symbols: str | Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(as_list(symbols)))
    if history.everything and (not names or EVERYTHING in names):
        return (EVERYTHING,)
    if not names:
        raise ConfigError("no symbol is given")
    for symbol in names:
        if not symbol or symbol != symbol.strip() or "," in symbol or "*" in symbol:
            raise ConfigError(f"{symbol!r} is no symbol")
        if symbol != symbol.upper():
            raise ConfigError(f"{symbol!r} is no symbol; they are in capitals: {symbol.upper()}")
        if stream.chain and not stream.chain.is_contract(symbol):
            raise ConfigError(f"{symbol!r} is not a contract; one looks like {stream.chain.example}")
    return names


def _kind_of_bars(dataset: str, history: History, timeframe: str, adjustment: str) -> tuple[str, str]:
    """Timeframe and adjustment, defaults filled in; both empty where there are none."""
    if timeframe and not history.bars:
        raise ConfigError(f"{dataset} has no timeframe; only bars have one")
    if adjustment and not history.adjusted:
        adjusted = ", ".join(name for name in datasets() if history_of(name).adjusted)
        raise ConfigError(f"{dataset} has no adjustment; choose one only for {adjusted}")
    if history.bars:
        timeframe = timeframe or "1Min"
        minutes_of(timeframe)
    if history.adjusted:
        adjustment = adjustment or "raw"
        if adjustment not in ADJUSTMENTS:
            raise ConfigError(f"adjustment {adjustment!r} is not one of {', '.join(ADJUSTMENTS)}")
    return timeframe, adjustment
