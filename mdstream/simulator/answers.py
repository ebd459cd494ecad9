"""REST answers that several markets share: latest records, snapshots, pages of history."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from mdstream.simulator.generator import DAY
from mdstream.simulator.past_records import QUOTES, TRADES, Series, bar_series
from mdstream.simulator.rest_query import Query, RestRefusal, page_token
from mdstream.venues.alpaca.bodies import NEXT_PAGE_TOKEN, ONE_SYMBOL
from mdstream.venues.alpaca.limits import HISTORY_PAGE

Answer = Callable[[Query], Any]
"""Returns the JSON body for a query, as Python objects."""

_HISTORY = ("symbols", "start", "end", "limit", "page_token", "sort", "feed", "currency", "asof")


def answer_latest(kind: str) -> Answer:
    """Return an answer with the latest `kind` (`trades`) of each symbol, or of the one in the path."""

    def answer(query: Query) -> Any:
        query.check("symbols", "feed", "currency")

        def record(symbol: str) -> Any:
            return query.past(symbol).latest(query.now)[kind]()

        if symbol := query.single:
            return {ONE_SYMBOL: symbol, kind[:-1]: record(symbol)}
        return {kind: {symbol: record(symbol) for symbol in query.symbols()}}

    return answer


def answer_states(member: str = "", *, paged: bool = False, most: int = 0) -> Answer:
    """Return an answer with the state of each symbol (in `member`, if given), or of the one in the path.

    `paged` answers have a page token, but never a second page. `most` limits the symbols; 0: no limit.
    """

    def answer(query: Query) -> Any:
        query.check("symbols", "feed", "currency", "limit", "page_token")
        if symbol := query.single:
            return {ONE_SYMBOL: symbol, **query.state([symbol]).get(symbol, {})}
        symbols = query.symbols()
        if most and len(symbols) > most:
            raise RestRefusal(400, f"too many symbols: at most {most}")
        found = query.state(symbols)
        return {member: found, **({NEXT_PAGE_TOKEN: None} if paged else {})} if member else found

    return answer


def answer_history(kind: str) -> Answer:
    """Return an answer with a page of `kind` (`trades`, `quotes`, `bars`), sorted by symbol and time."""

    def answer(query: Query) -> Any:
        query.check(*_HISTORY, *(("timeframe", "adjustment") if kind == "bars" else ()))
        series = _series(query, kind)
        limit = query.limit(1000, HISTORY_PAGE)
        symbols = [query.single] if query.single else sorted(query.symbols())
        found: dict[str, list[Any]] = {}
        last: tuple[str, int] | None = None
        items = _items(query, series, symbols)
        for symbol, index, record in itertools.islice(items, limit):
            found.setdefault(symbol, []).append(record)
            last = (symbol, index)
        token = page_token(*last) if last and next(items, None) is not None else None
        if query.single:
            return {kind: found.get(query.single), ONE_SYMBOL: query.single, NEXT_PAGE_TOKEN: token}
        return {kind: found, NEXT_PAGE_TOKEN: token}

    return answer


def _series(query: Query, kind: str) -> Series:
    if kind != "bars":
        return {"trades": TRADES, "quotes": QUOTES}[kind]
    timeframe = query.parameters.get("timeframe", "")
    if (series := bar_series(timeframe)) is None:
        raise RestRefusal(400, f"invalid timeframe: {timeframe}")
    return series


def _items(query: Query, series: Series, symbols: list[str]) -> Iterator[tuple[str, int, Any]]:
    """Yield symbol, index and record of the items after the page token."""
    start = query.moment("start", query.now - query.now % DAY)
    end = min(query.moment("end", query.now), query.now)
    down = query.parameters.get("sort") == "desc"
    after = query.after()
    for symbol in symbols:
        if after and symbol < after[0]:
            continue
        past = query.past(symbol)
        indexes = series.indexes(start, end)
        if after and symbol == after[0]:
            indexes = (
                range(indexes.start, min(indexes.stop, after[1]))
                if down
                else range(max(indexes.start, after[1] + 1), indexes.stop)
            )
        for index in reversed(indexes) if down else indexes:
            record = series.at(past, index, end)
            if start <= record["t"] <= end:
                yield symbol, index, record
