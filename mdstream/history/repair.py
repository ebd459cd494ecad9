"""Find days of a store with fewer rows than the service's own daily bars say.

    daily bars of the service ─► trades of each day ─┐
    rows of the store ─► rows of each day ───────────┴─► short days ─► their shards are fetched again

A daily bar counts the trades that update its volume, without those that were cancelled or corrected later.
So a day of trades is short if the store has fewer of these. Minute bars and quotes have no such count:
their day is short if it has no row at all. So is a day of which only a part is requested.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from mdstream.errors import ServerError, UnusableAnswerError
from mdstream.history.request import DAY_NS, EVERYTHING, BackfillRequest, Shard, last_complete
from mdstream.session.pages import Client, history_request, pages
from mdstream.session.rest import Body
from mdstream.store.catalogue import scan_fetched
from mdstream.store.query import to_utc
from mdstream.streams.bar_rules import split_conditions
from mdstream.text.times import to_ns
from mdstream.venues.alpaca import sessions
from mdstream.venues.alpaca.bodies import page_token_in
from mdstream.venues.alpaca.parameters import ADJUSTMENT, ASOF, TIMEFRAME
from mdstream.venues.alpaca.timeframes import ADJUSTMENTS, length_ns

log = logging.getLogger(__name__)

_DAILY = "1Day"
_MOST_NAMED = 20
"""Most short days that the log names."""


class Day(NamedTuple):
    """A day of one symbol, and the trades that the service counts in its requested part, at least."""

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
    counts = _count_rows(request, store) if days else {}
    is_counted = request.history.channel == (request.spec.bar_rules and request.spec.bar_rules.trades)
    found = []
    for day in days:
        have = counts.get((day.symbol, _key_of(request, day.first)), 0)
        if have < (day.trades if is_counted else 1):
            found.append((day, have))
    return found


def log_short_days(short: Sequence[tuple[Day, int]]) -> None:
    """Log the days that are short even now."""
    for day, have in short[:_MOST_NAMED]:
        log.warning(
            "%s %s: %s of %s trades by the service's daily bar",
            day.symbol,
            f"{to_utc(day.first):%Y-%m-%d}",
            f"{have:,}",
            f"{day.trades:,}",
        )


class _Page(NamedTuple):
    bars: list[dict[str, Any]]
    page_token: str

    @property
    def is_empty(self) -> bool:
        return not self.bars


async def _fetch_symbol(
    client: Client, request: BackfillRequest, symbol: str, bars: Any, past: int
) -> tuple[list[Day], bool]:
    """Return the days of a symbol, and whether these are all: a bar that cannot be read costs its day."""

    async def read(body: Body) -> _Page:
        answer = body.parse(f"the daily bars of {symbol}")
        try:
            return _Page((answer["bars"] or {}).get(symbol) or [], page_token_in(answer))
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise UnusableAnswerError(f"unusable daily bars of {symbol}: {error!r}") from error

    more = {TIMEFRAME: _DAILY, ASOF: request.asof}
    if bars.adjusted:
        more[ADJUSTMENT] = ADJUSTMENTS[0]
    query = history_request(bars, request.feed, (symbol,), (request.first, past), more)
    found, unreadable = [], ""
    try:
        async for page in pages(client, query, read):
            for bar in page.bars:
                try:
                    first, trades = to_ns(datetime.fromisoformat(bar["t"])), int(bar["n"])
                except (KeyError, ValueError, TypeError, OverflowError) as error:
                    unreadable = f"unusable daily bars: {error!r}"
                    continue
                is_whole = _is_whole(request, first)
                found.append(Day(symbol, first, first + DAY_NS, trades if is_whole else min(1, trades)))
    except ServerError as error:
        unreadable = str(error)
    if unreadable:
        log.warning("%s: some of its days cannot be counted: %s", symbol, unreadable)
    return [day for day in found if day.trades], not unreadable


def _is_whole(request: BackfillRequest, first: int) -> bool:
    """Return whether all sessions of the day that begins at `first` are requested."""
    windows = sessions.find_windows(request.feed, first, first + DAY_NS)
    return all(request.first <= each.first and each.past <= request.past for each in windows)


def _key_of(request: BackfillRequest, at: int) -> date:
    """Return the day to which the rows of a time belong: New York's, or UTC's if the feed never closes."""
    if request.feed in sessions.HOURS:
        return to_utc(at).astimezone(sessions.NEW_YORK).date()
    return to_utc(at).date()


def _count_rows(request: BackfillRequest, store: Path) -> dict[tuple[str, date], int]:
    """Return the number of rows that count in a daily bar, by symbol and day."""
    import polars as pl

    kinds = {"feed": request.feed, "timeframe": request.timeframe, "adjustment": request.adjustment}
    span = to_utc(request.first).date(), (to_utc(request.past) + timedelta(days=1)).date()
    rows = scan_fetched(request.dataset, store, request.symbols, span, kinds)
    if rows is None:
        return {}
    columns = rows.collect_schema().names()
    zone = str(sessions.NEW_YORK if request.feed in sessions.HOURS else UTC)
    day = pl.col(request.channel.time).dt.convert_time_zone(zone).dt.date().alias("day")
    conditions = [name for name in ("conditions", "tape") if name in columns]
    counted = rows.group_by("symbol", day, *conditions).len().collect(engine="streaming")
    found: dict[tuple[str, date], int] = {}
    for row in counted.iter_rows(named=True):
        if _is_counted(request, row.get("conditions") or "", row.get("tape") or ""):
            key = row["symbol"], row["day"]
            found[key] = found.get(key, 0) + row["len"]
    return found


def _is_counted(request: BackfillRequest, conditions: str, tape: str) -> bool:
    rules = request.spec.bar_rules
    if rules is None:
        return True
    codes = split_conditions(conditions) if rules.has_condition_list else [conditions]
    return rules.counts(codes, tape)[1]
