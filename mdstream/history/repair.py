"""Find days of a store with fewer rows than the service's own daily bars say.

    daily bars of the service ─► trades of each day ─┐
    rows of the store ─► rows of each day ───────────┴─► short days ─► their shards are fetched again

A bar counts the trades that update its volume, without those that were cancelled or corrected later. So a
day of trades is short if the store has fewer of these. Minute bars and quotes have no such count: their day
is short if it has no row at all.

A day is that of its bar. For stocks and options, it is a day of New York. For crypto, it begins at 5:00
UTC, as the bar does. If only a part of a day is requested, the hourly bars of that part count.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from mdstream.errors import ServerError, UnusableAnswerError
from mdstream.history.request import DAY_NS, EVERYTHING, BackfillRequest, Shard, last_complete
from mdstream.session.pages import Client, history_request, pages
from mdstream.session.rest import Body
from mdstream.store.catalogue import scan_fetched
from mdstream.store.query import to_utc
from mdstream.streams.bar_rules import split_conditions
from mdstream.streams.rest_spec import HistorySpec
from mdstream.text.times import to_ns
from mdstream.venues.alpaca import sessions
from mdstream.venues.alpaca.bodies import page_token_in
from mdstream.venues.alpaca.parameters import ADJUSTMENT, ASOF, TIMEFRAME
from mdstream.venues.alpaca.timeframes import ADJUSTMENTS, length_ns

log = logging.getLogger(__name__)

_DAILY, _HOURLY = "1Day", "1Hour"
_HOUR_NS = length_ns(_HOURLY)
_LONGEST_DAY_NS = length_ns(_DAILY)
"""A day on which the clocks change may have 25 hours."""
_MOST_NAMED = 20
"""Most short days that the log names."""


class Day(NamedTuple):
    """The requested part of a day of one symbol, and the trades that the service counts in it, at least."""

    symbol: str
    first: int
    past: int
    trades: int

    @property
    def shard(self) -> Shard:
        return Shard(self.symbol, self.first, self.past)


async def fetch_days(client: Client, request: BackfillRequest, until: int) -> tuple[list[Day], int]:
    """Return each day of the request with trades, by the service's daily bars that are over at `until`.

    Without daily bars, or if they are what is requested, there are none. The number is that of the symbols
    that have daily bars which cannot be read or fetched.
    """
    bars = next((each for each in request.spec.history if each.bars), None)
    past = min(request.past, last_complete(until, _DAILY))
    is_longer = request.timeframe and length_ns(request.timeframe) >= DAY_NS
    if bars is None or is_longer or past <= request.first or EVERYTHING in request.symbols:
        return [], 0
    found = await asyncio.gather(
        *(_fetch_symbol(client, request, symbol, bars, past) for symbol in request.symbols)
    )
    return [day for days, _ in found for day in days], sum(not is_all for _, is_all in found)


def find_short_days(request: BackfillRequest, store: Path, days: Sequence[Day]) -> list[tuple[Day, int]]:
    """Return the days of which the store has too few rows, each with the rows that it has."""
    is_counted = request.history.channel == (request.spec.bar_rules and request.spec.bar_rules.trades)
    counts = _count_rows(request, store, days) if days else []
    return [
        (day, have)
        for day, have in zip(days, counts, strict=True)
        if have < (day.trades if is_counted else 1)
    ]


def log_short_days(short: Sequence[tuple[Day, int]]) -> None:
    """Log the days that are short even now."""
    for day, have in short[:_MOST_NAMED]:
        log.warning(
            "%s %s: %s of %s trades by the service's bars",
            day.symbol,
            f"{to_utc(day.first):%Y-%m-%d}",
            f"{have:,}",
            f"{day.trades:,}",
        )


class _BarCount(NamedTuple):
    """The start of a bar, and its number of trades."""

    first: int
    trades: int


class _Page(NamedTuple):
    bars: list[dict[str, Any]]
    page_token: str

    @property
    def is_empty(self) -> bool:
        return not self.bars


async def _fetch_symbol(
    client: Client, request: BackfillRequest, symbol: str, bars: HistorySpec, past: int
) -> tuple[list[Day], bool]:
    """Return the days of a symbol, and whether these are all: a bar that cannot be read costs its day."""

    async def fetch(timeframe: str, first: int, past: int) -> list[_BarCount]:
        found, problem = await _fetch_bars(client, request, symbol, bars, (timeframe, first, past))
        problems.append(problem)
        return found

    problems: list[str] = []
    days = []
    daily = await fetch(_DAILY, request.first - _LONGEST_DAY_NS, past)
    for number, bar in enumerate(daily):
        following = daily[number + 1].first if number + 1 < len(daily) else 0
        whole = _span_of_day(request, bar.first, following)
        first, end = max(whole[0], request.first), min(whole[1], request.past)
        trades = bar.trades if sessions.find_windows(request.feed, first, end) else 0
        if trades and not _is_whole(request, *whole):
            hours = await fetch(_HOURLY, first, end)
            trades = sum(hour.trades for hour in hours if first <= hour.first <= end - _HOUR_NS)
        if trades:
            days.append(Day(symbol, first, end, trades))
    if unreadable := next(filter(None, problems), ""):
        log.warning("%s: some of its days cannot be counted: %s", symbol, unreadable)
    return days, not unreadable


async def _fetch_bars(
    client: Client, request: BackfillRequest, symbol: str, bars: HistorySpec, wanted: tuple[str, int, int]
) -> tuple[list[_BarCount], str]:
    """Return the bars of a symbol (timeframe, first, past), in order, and why others cannot be read."""

    async def read(body: Body) -> _Page:
        answer = body.parse(f"the bars of {symbol}")
        try:
            return _Page((answer["bars"] or {}).get(symbol) or [], page_token_in(answer))
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise UnusableAnswerError(f"unusable bars of {symbol}: {error!r}") from error

    timeframe, first, past = wanted
    more = {TIMEFRAME: timeframe, ASOF: request.asof}
    if bars.adjusted:
        more[ADJUSTMENT] = ADJUSTMENTS[0]
    query = history_request(bars, request.feed, (symbol,), (first, past), more)
    found, problem = [], ""
    try:
        async for page in pages(client, query, read):
            for bar in page.bars:
                try:
                    found.append(_BarCount(to_ns(datetime.fromisoformat(bar["t"])), int(bar["n"])))
                except (KeyError, ValueError, TypeError, OverflowError) as error:
                    problem = f"unusable bars: {error!r}"
    except ServerError as error:
        problem = str(error)
    return sorted(found), problem


def _span_of_day(request: BackfillRequest, first: int, following: int) -> tuple[int, int]:
    """Return the day of the bar that begins at `first`; the next one begins at `following`."""
    if request.feed not in sessions.HOURS:
        is_next = 0 < following - first <= _LONGEST_DAY_NS
        return first, following if is_next else first + DAY_NS
    date = to_utc(first).astimezone(sessions.NEW_YORK).date()
    midnights = (datetime.combine(date + timedelta(days), time(), sessions.NEW_YORK) for days in (0, 1))
    begin, end = map(to_ns, midnights)
    return begin, end


def _is_whole(request: BackfillRequest, first: int, past: int) -> bool:
    """Return whether all sessions of a day are requested."""
    windows = sessions.find_windows(request.feed, first, past)
    return all(request.first <= each.first and each.past <= request.past for each in windows)


def _count_rows(request: BackfillRequest, store: Path, days: Sequence[Day]) -> list[int]:
    """Return how many rows the store has of each day that count in its bar.

    A bar that begins before its day, or its requested part, counts too.
    """
    import numpy as np
    import polars as pl

    kinds = {"feed": request.feed, "timeframe": request.timeframe, "adjustment": request.adjustment}
    lead = length_ns(request.timeframe) if request.timeframe else 0
    first, past = min(day.first for day in days) - lead, max(day.past for day in days)
    rows = scan_fetched(
        request.dataset, store, request.symbols, (to_utc(first).date(), to_utc(past).date()), kinds
    )
    if rows is None:
        return [0] * len(days)
    bounds = np.unique([edge for day in days for edge in (day.first - lead, day.past)])

    def place(times: pl.Series) -> pl.Series:
        return pl.Series(times.name, np.searchsorted(bounds, times.to_numpy(), "right"), pl.Int64)

    columns = rows.collect_schema().names()
    at = pl.col(request.channel.time).dt.epoch("ns").map_batches(place, pl.Int64, is_elementwise=True)
    conditions = [name for name in ("conditions", "tape") if name in columns]
    counted = rows.group_by("symbol", at.alias("place"), *conditions).len().collect(engine="streaming")
    found: dict[str, list[int]] = {symbol: [0] * (len(bounds) + 1) for symbol in request.symbols}
    for row in counted.iter_rows(named=True):
        if _is_counted(request, row.get("conditions") or "", row.get("tape") or ""):
            found[row["symbol"]][row["place"]] += row["len"]
    ends = {int(edge): number + 1 for number, edge in enumerate(bounds)}
    return [sum(found[day.symbol][ends[day.first - lead] : ends[day.past]]) for day in days]


def _is_counted(request: BackfillRequest, conditions: str, tape: str) -> bool:
    rules = request.spec.bar_rules
    if rules is None:
        return True
    codes = split_conditions(conditions) if rules.has_condition_list else [conditions]
    return rules.counts(codes, tape)[1]
