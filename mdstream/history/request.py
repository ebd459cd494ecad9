"""Requests for history: checked, and cut into shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, NamedTuple, TypedDict

from mdstream.config import setting
from mdstream.errors import ConfigError, UnknownNameError
from mdstream.reading.arguments import list_symbols
from mdstream.settings import describe
from mdstream.store.query import When, parse_time, to_utc
from mdstream.streams import STREAMS
from mdstream.streams.datasets import datasets, history_of, resolve_dataset
from mdstream.streams.rest_spec import HistorySpec
from mdstream.streams.spec import Channel, PayloadKind, StreamSpec
from mdstream.streams.symbols import why_no_symbol
from mdstream.text.patterns import find_matching
from mdstream.text.times import to_ns
from mdstream.venues.alpaca import sessions
from mdstream.venues.alpaca.parameters import NO_MAPPING
from mdstream.venues.alpaca.timeframes import ADJUSTMENTS, length_ns, minutes_of, name_timeframe

DAY_NS = 86_400 * 1_000_000_000
_MINUTE_NS = 60 * 1_000_000_000
_FOREVER_NS = (1 << 63) - 1
_ROWS_PER_SHARD = 9_000
"""Largest number of bars in a shard: they fit into a page."""

_ASOF = "asof="

EVERYTHING = "*"
"""Symbol of a request for the rows of all symbols at once (`HistorySpec.everything`)."""


class HistoryOptions(TypedDict, total=False):
    """Which rows of a dataset to fetch, beside symbols and times; flags of `mdstream backfill`."""

    feed: Annotated[
        str, setting("Data feed, as sip or iex; default: that of the stream's settings.", flag="--feed")
    ]
    timeframe: Annotated[
        str | timedelta,
        setting(
            "Length of bars: 1Min (default), 15Min, 1Hour, 1Day, ...",
            flag="--timeframe",
            example="1Hour",
            forms={timedelta: name_timeframe},
        ),
    ]
    adjustment: Annotated[
        str, setting("Adjustment of stock bars; default: raw.", choices=ADJUSTMENTS, flag="--adjustment")
    ]
    priority: Annotated[
        str | Sequence[str], setting("Symbols to fetch before all others; patterns too.", flag="--priority")
    ]
    status: Annotated[
        str,
        setting(
            "Assets that patterns match: those that trade now (default), delisted ones, or both.",
            choices=("active", "inactive", "all"),
            flag="--status",
        ),
    ]
    asof: Annotated[
        str | date,
        setting(
            "Day as of which stock symbols are meant: META before 2022-06-09 is FB. "
            "Default: today; - for symbols as they were.",
            flag="--asof",
            metavar="DATE",
            example="2022-06-08",
            forms={date: str},
        ),
    ]
    refetch: Annotated[
        str | date,
        setting(
            "Fetch stored data of this range again: a date, FIRST..LAST, or all.",
            flag="--refetch",
            metavar="RANGE",
            example="2026-01-05..2026-01-09",
            forms={date: str},
        ),
    ]
    repair: Annotated[
        bool,
        setting(
            "Fetch again what was empty, and days with fewer rows than the service's daily bars say.",
            flag="--repair",
        ),
    ]


_DECLARED = {each.name: each for each in describe(HistoryOptions)}


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `HistoryOptions`, each checked by its declaration, as strings, lists and booleans.

    None and an empty string mean the default. Raises `ConfigError`.
    """
    return {
        name: _DECLARED[name].read(value)
        for name, value in options.items()
        if value is not None and not (isinstance(value, str) and not value)
    }


class Shard(NamedTuple):
    """Time range of one symbol: `first` is inclusive, `past` exclusive; ns since 1970 UTC."""

    symbol: str
    first: int
    past: int


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """A range of one dataset: `first` is inclusive, `past` exclusive; ns since 1970 UTC.

    `timeframe` and `adjustment` are empty if the dataset has none.
    """

    dataset: str
    symbols: tuple[str, ...]
    first: int
    past: int
    feed: str
    timeframe: str = ""
    adjustment: str = ""
    urgent: frozenset[str] = frozenset()
    """Symbols to fetch before all others."""
    asof: str = ""
    """The day as of which symbols are meant; empty: the day of the request."""
    refetch: tuple[int, int] | None = None
    """The range in which stored shards are fetched again."""
    repair: bool = False
    """Whether empty shards and days with missing rows are fetched again."""

    @property
    def spec(self) -> StreamSpec:
        return STREAMS[self.dataset.partition(".")[0]]

    @property
    def history(self) -> HistorySpec:
        return history_of(self.dataset)

    @property
    def channel(self) -> Channel:
        """The channel of the fetched rows."""
        return self.spec.by_name[self.history.rows or self.history.channel]

    @property
    def kind(self) -> PayloadKind:
        """Kind of the payload of each page."""
        return self.spec.kind_of(self.history)

    @property
    def variant(self) -> str:
        """Text that distinguishes this data from other data of the same symbols and times."""
        asof = f"{_ASOF}{self.asof}" if self.asof else ""
        return "/".join(filter(None, (self.feed, self.timeframe, self.adjustment, asof)))

    @property
    def is_adjusted(self) -> bool:
        """Whether rows depend on the day of the request: a later split or dividend changes all of them."""
        return self.adjustment not in ("", ADJUSTMENTS[0])

    def clashes_with(self, variant: str) -> bool:
        """Return whether rows of `variant` have another `asof`, and are one series with those requested.

        Rows of two data feeds are one series if the channel's identity does not name the feed.
        """
        theirs, ours = _split_asof(variant), _split_asof(self.variant)
        series = [kinds if "feed" in self.channel.identity else kinds[1:] for kinds, _ in (theirs, ours)]
        return theirs[1] != ours[1] and series[0] == series[1]

    def partition(self, first: int) -> dict[str, str]:
        """Return the store's partition of a shard that begins at `first`."""
        when = to_utc(first)
        columns = {"feed": self.feed, "timeframe": self.timeframe, "adjustment": self.adjustment}
        by_date = self.history.partition == "date"
        day = {"date": f"{when:%Y-%m-%d}"} if by_date else {"year": f"{when:%Y}"}
        return {name: value for name, value in (columns | day).items() if value}

    def query_end(self, past: int) -> int:
        """Return the end of the query for a shard that ends at `past`, so that its last bar is complete.

        Bars whose length divides an hour are aligned to the hour. The service does not document the
        alignment of others, so a full bar length is added.
        """
        if not self.timeframe:
            return past
        length = length_ns(self.timeframe)
        is_on_the_hour = 60 * _MINUTE_NS % length == 0
        return -(-past // length) * length if is_on_the_hour else past + length

    def row_span(self, shard: Shard) -> tuple[int, int]:
        """Return the time range of the rows that belong to a shard; a bar has the time of its start.

        Rows with revisions (articles) are an exception: all that the service returns for a shard belong to
        it. The service sorts articles by their last update, and does not say by which time it selects them.
        The time of a row is that of its first publication, which may be years earlier. An article of
        several shards is not doubled, because `scan` returns the last revision of each id.
        """
        return (0, _FOREVER_NS) if self.channel.revised_by else (shard.first, shard.past)

    def queried_span(self, shard: Shard) -> tuple[int, int]:
        """Return the time range of the rows that the service may return for a shard.

        For bars it is wider than `row_span`: a query that ends, or begins, within a bar may return it.
        """
        first, past = self.row_span(shard)
        if not self.timeframe:
            return first, past
        return first - length_ns(self.timeframe) + 1, self.query_end(past)

    def shards(self) -> Iterator[Shard]:
        """Iterate over all shards: urgent symbols first, then by time, in the order of the symbols.

        Those without a session of the data feed are left out.
        """
        for urgent in (True, False):
            symbols = [s for s in self.symbols if (s in self.urgent) is urgent]
            for first, past in self._ranges() if symbols else ():
                if not self.is_closed(first, past):
                    for symbol in symbols:
                        yield Shard(symbol, first, past)

    def is_closed(self, first: int, past: int) -> bool:
        """Return whether the data feed has no session on the days of a range.

        A bar that begins on a closed day may end on an open one.
        """
        length = length_ns(self.timeframe) if self.timeframe else 0
        return sessions.is_closed(self.feed, first, past) and not sessions.find_windows(
            self.feed, past, past + length
        )

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """Iterate over the parts of the range, cut at full days so that none crosses a partition's end."""
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
        """Return how many days a shard covers."""
        if self.history.partition == "date":
            return 1
        if not self.timeframe:
            return 1 if EVERYTHING in self.symbols else self.history.shard_days
        minutes = minutes_of(self.timeframe)
        return max(1, min(366, minutes * _ROWS_PER_SHARD // 1440))


def make_request(
    dataset: str, symbols: str | Sequence[str], start: When, end: When, *, now: datetime, **options: Any
) -> BackfillRequest:
    """Return a checked request. Raises `ConfigError` if something is wrong.

    `options` are those that `check_options` returns. Without a feed, it is the default of the stream.
    Times without a zone are UTC. A date as `end` includes that day. Incomplete data is left out: the last
    minute before `now`, and bars that have not closed by then. If the service returns the rows of all
    symbols at once, no symbol, or `*` among them, means all.
    """
    dataset = resolve_dataset(dataset)
    history, stream = history_of(dataset), STREAMS[dataset.partition(".")[0]]
    first, past = parse_time(start, "start"), parse_time(end, "end", whole_day=True)
    kind = _resolve_bars(dataset, history, options.get("timeframe", ""), options.get("adjustment", ""))
    complete_until = _complete_until(now, kind[0])
    if first >= past:
        raise ConfigError(f"start {start} is not before end {end}")
    if first >= complete_until:
        what = f"the first {kind[0]} bar has not closed yet" if kind[0] else "not in the past"
        raise ConfigError(f"start {start}: {what}; give an earlier start")
    feed = options.get("feed") or stream.default_feed
    if feed not in stream.feeds:
        raise ConfigError(f"feed {feed!r} is not one of {', '.join(stream.feeds)}")
    names = _check_symbols(stream, history, symbols)
    matches = {
        pattern: find_matching(pattern, names) for pattern in list_symbols(options.get("priority", ()))
    }
    if unknown := [pattern for pattern, found in matches.items() if not found]:
        raise UnknownNameError.among(names, unknown[0], f"priority {unknown[0]!r} is not among the symbols")
    before = frozenset(name for found in matches.values() for name in found)
    past = min(past, complete_until)
    asof = _check_asof(dataset, history, options.get("asof", ""))
    refetch = _parse_range(options.get("refetch", ""), (first, past))
    return BackfillRequest(
        dataset, names, first, past, feed, *kind, before, asof, refetch, options.get("repair", False)
    )


def _complete_until(now: datetime, timeframe: str) -> int:
    """Return the time up to which rows are complete. A bar has the time of its start."""
    return last_complete(to_ns(now) - _MINUTE_NS, timeframe)


def last_complete(until: int, timeframe: str) -> int:
    """Return the end of the range whose bars are over at `until`; without a timeframe `until` itself."""
    return until - length_ns(timeframe) + 1 if timeframe else until


def _check_asof(dataset: str, history: HistorySpec, asof: str) -> str:
    if asof and not history.mapped:
        mapped = ", ".join(name for name in datasets() if history_of(name).mapped)
        raise ConfigError(f"{dataset} has no asof; give one only for {mapped}")
    if asof and asof != NO_MAPPING:
        try:
            return date.fromisoformat(asof).isoformat()
        except ValueError:
            raise ConfigError(f"asof {asof!r} is not a date, such as 2022-06-08, or -") from None
    return asof


def _parse_range(text: str, whole: tuple[int, int]) -> tuple[int, int] | None:
    """Return the part of `whole` that a range names; None if there is no text."""
    if not text:
        return None
    if text == "all":
        return whole
    start, dots, end = text.partition("..")
    first, past = (
        parse_time(start, "refetch"),
        parse_time(end if dots else start, "refetch", whole_day=True),
    )
    if first >= past:
        raise ConfigError(f"refetch {text!r}: its start is not before its end")
    first, past = max(first, whole[0]), min(past, whole[1])
    if first >= past:
        raise ConfigError(f"refetch {text!r} is outside of the range from start to end")
    return first, past


def _split_asof(variant: str) -> tuple[list[str], str]:
    """Return the feed, timeframe and adjustment of a variant, as far as it has them, and its `asof`."""
    kinds, _, asof = variant.partition(f"/{_ASOF}")
    return kinds.split("/"), asof


def _check_symbols(
    stream: StreamSpec, history: HistorySpec, symbols: str | Sequence[str]
) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(list_symbols(symbols)))
    if history.everything and (not names or EVERYTHING in names):
        return (EVERYTHING,)
    if not names:
        raise ConfigError("no symbol is given")
    for symbol in names:
        if why := why_no_symbol(symbol):
            raise ConfigError(why)
        if stream.chain and not stream.chain.is_contract(symbol):
            raise ConfigError(f"{symbol!r} is not a contract; one looks like {stream.chain.example}")
    return names


def _resolve_bars(dataset: str, history: HistorySpec, timeframe: str, adjustment: str) -> tuple[str, str]:
    """Return timeframe and adjustment with defaults filled in; both empty if the dataset has none."""
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
    return timeframe, adjustment
