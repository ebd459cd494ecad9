"""What is asked of the past, checked, and cut into shards."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from typing import NamedTuple

from mdstream.errors import ConfigError
from mdstream.streams import STREAMS
from mdstream.streams.options import is_contract
from mdstream.streams.spec import Channel, History, StreamSpec

DAY_NS = 86_400 * 1_000_000_000
_MINUTE_NS = 60 * 1_000_000_000
_FOREVER_NS = (1 << 63) - 1
_CLOCK_CHANGE_NS = 60 * _MINUTE_NS
"""A day may have 25 hours."""

ADJUSTMENTS = ("raw", "split", "dividend", "spin-off", "all")

_UNITS = {
    "Min": (1, range(1, 60)),
    "Hour": (60, range(1, 24)),
    "Day": (1440, (1,)),
    "Week": (10_080, (1,)),
    "Month": (44_640, (1, 2, 3, 4, 6, 12)),
}
"""Of a timeframe: minutes, and how many of them the service takes (its `timeframe` parameter)."""

_ROWS_A_SHARD = 9_000
"""Bars of a shard, if none is missing: a page, at most."""

_NEWS_DAYS = 30
EVERYTHING = "*"
"""Stands for a symbol where the rows of all of them are asked for at once (`History.everything`)."""

_LAST_YEAR = 2261
"""The last whole one that has nanoseconds in 64 bits."""
_TIMEFRAME = re.compile(r"(\d+)(Min|Hour|Day|Week|Month)")


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
    def variant(self) -> str:
        """What tells this apart from other data of the same symbols and times."""
        return "/".join(filter(None, (self.feed, self.timeframe, self.adjustment)))

    def partition(self, first: int) -> dict[str, str]:
        """The store's partition of a shard that begins at `first`."""
        when = _utc(first)
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
        length = _length(self.timeframe)
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
                ends.append(_ns(datetime(_utc(at).year + 1, 1, 1, tzinfo=UTC)))
            past = min(self.past, *ends)
            yield at, past
            at = past

    def _days(self) -> int:
        """Days of a shard."""
        if self.history.partition == "date":
            return 1
        if not self.timeframe:
            return 1 if EVERYTHING in self.symbols else _NEWS_DAYS
        minutes = minutes_of(self.timeframe)
        return max(1, min(366, minutes * _ROWS_A_SHARD // 1440))


def datasets() -> list[str]:
    """Every dataset that can be fetched: `stocks.trades`, ..."""
    return [
        f"{spec.name}.{history.channel}" for spec in STREAMS.values() for history in spec.history
    ]


def dataset_named(name: str) -> str:
    """The dataset that is meant: a stream that has but one goes by the stream's name, too, as `news`."""
    every = [each for each in datasets() if each.startswith(f"{name}.")]
    return every[0] if len(every) == 1 else name


def history_of(dataset: str) -> History:
    """How a dataset is fetched. Raises `ConfigError` for one that is none."""
    stream, _, channel = dataset_named(dataset).partition(".")
    if spec := STREAMS.get(stream):
        for history in spec.history:
            if history.channel == channel:
                return history
    raise ConfigError(f"no history of {dataset!r}; there is that of {', '.join(datasets())}")


def asked(
    dataset: str,
    symbols: str | Sequence[str],
    start: str | date | datetime,
    end: str | date | datetime,
    *,
    feed: str = "",
    timeframe: str = "",
    adjustment: str = "",
    urgent: str | Sequence[str] = (),
    now: datetime,
) -> Request:
    """A request, checked. Raises `ConfigError` that says what is wrong and what would be right.

    Times without a zone are UTC. A date as `end` includes that day. What lies less than a minute before
    `now`, or after it, is left out: it is not complete yet; of bars those that were not over by then.
    Of news, no symbol, or `*` among them, means all there is.
    """
    dataset = dataset_named(dataset)
    history, stream = history_of(dataset), STREAMS[dataset.partition(".")[0]]
    first, past = moment(start, "start"), moment(end, "end", whole_day=True)
    kind = _kind_of_bars(dataset, history, timeframe, adjustment)
    settled = _settled(now, kind[0])
    if first >= past:
        raise ConfigError(f"start {start} is not before end {end}")
    if first >= settled:
        what = (
            f"no bar of {kind[0]} that began then is over" if kind[0] else "it is not in the past"
        )
        raise ConfigError(f"start {start}: {what}")
    feed = feed or stream.default_feed
    if feed not in stream.feeds:
        raise ConfigError(f"feed {feed!r} is not one of {', '.join(stream.feeds)}")
    names = _checked_symbols(stream, history, symbols)
    urgent = listed(urgent)
    first_ones = [[name for name in names if fnmatchcase(name, each)] for each in urgent]
    if odd := [each for each, found in zip(urgent, first_ones, strict=True) if not found]:
        raise ConfigError(f"{odd[0]!r} shall come first, and is not among the symbols")
    before = frozenset(name for found in first_ones for name in found)
    return Request(dataset, names, first, min(past, settled), feed, *kind, before)


def _settled(now: datetime, timeframe: str) -> int:
    """Up to when rows are complete. A bar has the time of its begin, and is complete when it is over."""
    settled = _ns(now) - _MINUTE_NS
    return settled - _length(timeframe) + 1 if timeframe else settled


def listed(symbols: str | Sequence[str]) -> list[str]:
    """Symbols as a list; a text alone is one symbol, as readers of frames take it."""
    return [symbols] if isinstance(symbols, str) else list(symbols)


def is_pattern(symbol: str) -> bool:
    """Whether a symbol has wildcards: `*`, `?` or `[…]`."""
    return any(sign in symbol for sign in "*?[")


def _checked_symbols(
    stream: StreamSpec, history: History, symbols: str | Sequence[str]
) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(listed(symbols)))
    if history.everything and (not names or EVERYTHING in names):
        return (EVERYTHING,)
    if not names:
        raise ConfigError("no symbol is given")
    for symbol in names:
        if not symbol or symbol != symbol.strip() or "," in symbol or "*" in symbol:
            raise ConfigError(f"{symbol!r} is no symbol")
        if symbol != symbol.upper():
            raise ConfigError(f"{symbol!r} is no symbol; they are in capitals: {symbol.upper()}")
        if stream.fetch.chain_path and not is_contract(symbol):
            raise ConfigError(f"{symbol!r} is no contract; one looks like AAPL261218C00230000")
    return names


def _kind_of_bars(
    dataset: str, history: History, timeframe: str, adjustment: str
) -> tuple[str, str]:
    """Timeframe and adjustment, defaults filled in; both empty where there are none."""
    if timeframe and not history.bars:
        raise ConfigError(f"{dataset} has no timeframe; only bars have one")
    if adjustment and not history.adjusted:
        raise ConfigError(f"{dataset} has no adjustment; only stocks.bars has one")
    if history.bars:
        timeframe = timeframe or "1Min"
        minutes_of(timeframe)
    if history.adjusted:
        adjustment = adjustment or "raw"
        if adjustment not in ADJUSTMENTS:
            raise ConfigError(f"adjustment {adjustment!r} is not one of {', '.join(ADJUSTMENTS)}")
    return timeframe, adjustment


def minutes_of(timeframe: str) -> int:
    """The length of a timeframe. Raises `ConfigError` for one the service has not."""
    found = _TIMEFRAME.fullmatch(timeframe)
    if found:
        minutes, offered = _UNITS[found[2]]
        if int(found[1]) in offered:
            return int(found[1]) * minutes
    raise ConfigError(
        f"timeframe {timeframe!r} is none; write 1Min to 59Min, 1Hour to 23Hour, 1Day, 1Week, or Month "
        "after 1, 2, 3, 4, 6 or 12"
    )


def _length(timeframe: str) -> int:
    """The longest that a bar of a timeframe can be, in ns."""
    minutes = minutes_of(timeframe)
    return minutes * _MINUTE_NS + (_CLOCK_CHANGE_NS if minutes >= _UNITS["Day"][0] else 0)


def moment(value: str | date | datetime, name: str, whole_day: bool = False) -> int:
    """Nanoseconds since 1970 of a date or a time, at most 2262's first. Raises `ConfigError`."""
    if isinstance(value, str):
        value = _parsed(value, name)
    if value.year < 1970:
        raise ConfigError(f"{name}: {value} is before 1970, and nothing is so old")
    if value.year > _LAST_YEAR:
        return _ns(datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC))
    if isinstance(value, datetime):
        return _ns(value if value.tzinfo else value.replace(tzinfo=UTC))
    day = datetime(value.year, value.month, value.day, tzinfo=UTC)
    return _ns(day + timedelta(days=int(whole_day)))


def _parsed(value: str, name: str) -> date | datetime:
    with contextlib.suppress(ValueError):
        return date.fromisoformat(value)  # of any form, as 20260105: a date is a whole day
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise ConfigError(
            f"{name}: {value!r} is no time; write 2026-01-05 or 2026-01-05T14:30:00Z"
        ) from error


def day_of(value: str | date | datetime) -> date:
    """The UTC day of a start. Raises `ConfigError`."""
    return _utc(moment(value, "start")).date()


def rfc3339(ns: int) -> str:
    """A time as the service takes it, to the nanosecond."""
    return f"{_utc(ns):%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}Z"


def _utc(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC)


def _ns(when: datetime) -> int:
    return round(when.timestamp() * 1_000_000) * 1000
