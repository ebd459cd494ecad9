"""News as readers see it: an update replaces its article, and articles are found by symbol."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from mdstream.errors import ConfigError
from mdstream.reading.attach import Attachment, attach
from mdstream.streams.spec import PayloadKind
from tests.piping import rig


def article(number: int, minute: int, headline: str, *symbols: str) -> dict[str, Any]:
    at = f"2026-01-05T14:{minute:02d}:00Z"
    return {
        "T": "n",
        "id": number,
        "headline": headline,
        "summary": "",
        "author": "A",
        "content": "",
        "created_at": "2026-01-05T14:00:00Z",
        "updated_at": at,
        "url": "u",
        "symbols": list(symbols),
        "source": "benzinga",
    }


ARTICLES = [
    article(1, 1, "first", "AAPL", "MSFT"),
    article(2, 2, "second"),
    article(3, 3, "third", "AAPL"),
    article(1, 5, "first, corrected", "AAPL", "NVDA"),
    article(3, 2, "third, a late older version", "AAPL"),
]


def test_news_are_seen_once_each_and_by_symbol(tmp_path: Path) -> None:
    def look(run: Attachment) -> None:
        assert {"news.articles", "news.latest", "news.by_symbol"} <= set(run.frames)
        assert run.frame("news.articles").height == run.rows("news.latest") == 5
        latest = run.latest("news")
        assert latest["headline"].to_list() == ["second", "third", "first, corrected"]
        assert latest["symbols"].to_list() == [[], ["AAPL"], ["AAPL", "NVDA"]]
        assert run.latest("news", symbols="NVDA")["id"].to_list() == [1]
        assert run.latest("news", symbols="MSFT").height == 0  # the update does not contain this symbol
        by_symbol = run.frame("news.by_symbol")
        assert by_symbol.select("symbol", "id").rows() == [("AAPL", 3), ("AAPL", 1), ("NVDA", 1)]
        assert run.frame("news.by_symbol", symbols="AAPL")["id"].to_list() == [3, 1]
        moment = datetime(2026, 1, 5, 15, tzinfo=UTC)
        assert run.frame("news.by_symbol", since=moment).height == 0
        assert run.sql("select count(*) as n from news.by_symbol where symbol = 'AAPL'")["n"][0] == 2
        with pytest.raises(ConfigError, match=r"a view of news\.articles: follow that"):
            run.tail("news.latest")

    async def go() -> None:
        async with rig("news", 0, tmp_path) as r:
            await r.feed(
                [(orjson.dumps([a]), PayloadKind.JSON, 1_700_000_000_000_000_000) for a in ARTICLES]
            )
            await r.drain()
            look(attach(str(r.run)))

    uvloop.run(go())
