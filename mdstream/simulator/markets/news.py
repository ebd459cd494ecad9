"""News: articles on stocks, some of them new versions of earlier ones, and their archive over REST."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from mdstream.simulator.encode import Time
from mdstream.simulator.generator import DAY, MINUTE, Generator, Maker, Message
from mdstream.simulator.markets.declaration import Market, Route
from mdstream.simulator.past_records import SECOND, Record
from mdstream.simulator.rest_query import Query, page_token
from mdstream.venues.alpaca.bodies import NEXT_PAGE_TOKEN
from mdstream.venues.alpaca.limits import NEWS_PAGE

_UNIVERSE = ("AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "AMD", "SPY", "QQQ")
_FIRST_ID = 40_000_000
_UPDATE_SHARE = 0.05
"""Share of articles that are a new version of an earlier one."""
_REMEMBERED = 20
"""Number of the last articles, which may get a new version."""
_DISTANCE = 60 * MINUTE
"""Time between the articles on one symbol in the archive."""
_AUTHORS = 10_000
"""Most symbols with an article of the same time in the archive, each with its own id."""

_OF_CONTENT = ("include_content", "exclude_contentless")
_HEADLINES = (
    "{s} Beats on Earnings & Raises Outlook",
    "Analysts Lift {s} Target to €{n}",
    "{s} – What Traders Say About <b>Q{q}</b>",
    "Überraschung bei {s}: Kurs über {n}",
    "{s} Options Volume Hits {n}k Contracts 📈",
)


class NewsMessages(Generator):
    """Messages of news."""

    stream = "news"
    universe = _UNIVERSE
    first_id = _FIRST_ID

    _written: list[Message]
    """The last articles."""

    def __init__(self, seed: int, subscription: Mapping[str, Sequence[str]], ids_from: int = 0) -> None:
        super().__init__(seed, subscription, ids_from)
        self._written = []

    def makers(self) -> dict[str, tuple[float, Maker]]:
        return {"news": (1.0, self._article)}

    def _article(self, symbol: str, at: Time) -> Message:
        """Make a new article, or sometimes a new version of an earlier one, with the same id."""
        if self._written and self.random.random() < _UPDATE_SHARE:
            before = self.random.choice(self._written)
            second = Time(max(at - at % SECOND, before["updated_at"]))
            return {**before, "headline": f"{before['headline']} (Corrected)", "updated_at": second}
        new = {"T": "n", **_article(self.random, symbol, at, self.number())}
        self._written = [*self._written[-_REMEMBERED:], new]
        return new


def _article(r: random.Random, symbol: str, at: int, number: int) -> Record:
    """Return an article on a symbol, and sometimes on others too."""
    headline = r.choice(_HEADLINES).format(s=symbol, n=r.randint(100, 900), q=r.randint(1, 4))
    others = [s for s in _UNIVERSE if s != symbol and r.random() < 0.1]
    second = Time(at - at % SECOND)
    body = f'<p>{headline} &mdash; "read more" on {symbol}.</p>\n' * r.randint(0, 12)
    return {
        "id": number,
        "headline": headline,
        "summary": headline[: r.randint(0, 40)],
        "author": "Sim Newsdesk",
        "created_at": second,
        "updated_at": second,
        "url": f"https://example.com/{symbol.lower()}/{number}",
        "content": body,
        "symbols": [symbol, *others],
        "source": "benzinga",
    }


def archived_article(seed: int, symbol: str, index: int) -> Record:
    """Return article `index` on `symbol` from the archive, with pictures."""
    number = _FIRST_ID + index * _AUTHORS + zlib.crc32(symbol.encode()) % _AUTHORS
    record = _article(random.Random(f"{seed}/{symbol}/{index}"), symbol, index * _DISTANCE, number)
    sizes = ("thumb", "small", "large")
    record["images"] = [{"size": s, "url": f"https://example.com/{s}.jpg"} for s in sizes]
    return record


def _answer_archive(query: Query) -> Any:
    """Answer with a page of articles, newest first unless `sort` is `asc`."""
    query.check("symbols", "start", "end", "limit", "page_token", "sort", *_OF_CONTENT)
    start = query.moment("start", query.now - 30 * DAY)
    end = min(query.moment("end", query.now), query.now)
    limit = query.limit(10, NEWS_PAGE)
    symbols = query.symbols() if "symbols" in query.parameters else _UNIVERSE
    items = [
        (index * _DISTANCE, symbol)
        for index in range(start // _DISTANCE, end // _DISTANCE + 1)
        if start <= index * _DISTANCE <= end
        for symbol in sorted(symbols)
    ]
    items.sort(reverse=query.parameters.get("sort") != "asc")
    first = 0
    if after := query.after():
        symbol, at = after
        first = items.index((at, symbol)) + 1 if (at, symbol) in items else len(items)
    page, more = items[first : first + limit], first + limit < len(items)
    records = [archived_article(query.seed, symbol, at // _DISTANCE) for at, symbol in page]
    if query.parameters.get("include_content", "false").lower() != "true":
        records = [{**record, "content": ""} for record in records]
    return {"news": records, NEXT_PAGE_TOKEN: page_token(page[-1][1], page[-1][0]) if more else None}


def _answer_nothing(query: Query) -> Any:
    """Answer a replay's client with no articles: those of the stream are all there are."""
    return {"news": [], NEXT_PAGE_TOKEN: None}


NEWS = Market(
    generator=NewsMessages,
    symbol_form=re.compile(r"[A-Z][A-Z0-9./]{0,11}"),
    routes=(Route("/v1beta1/news", _answer_archive, _answer_nothing),),
    share=0.02,  # an article for every fifty messages elsewhere
)
