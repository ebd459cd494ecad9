"""Query parameters of REST, and their form of times."""

from __future__ import annotations

from datetime import UTC, datetime

SYMBOLS = "symbols"
"""Separated by commas. One malformed symbol fails the whole request."""
START, END = "start", "end"
"""RFC 3339 or a date; both are inclusive."""
LIMIT = "limit"
PAGE_TOKEN = "page_token"
"""A position in the answer; a client misses rows that the service inserts before it later."""
SORT, ASCENDING = "sort", "asc"
FEED, TIMEFRAME, ADJUSTMENT = "feed", "timeframe", "adjustment"
ASOF = "asof"
"""The day as of which names are mapped: rows of META before 2022-06-09 are those of FB. Default: today."""
NO_MAPPING = "-"
"""The value of `ASOF` for names as they were."""


def format_time(ns: int) -> str:
    """Return a time (ns since 1970) as text, to the nanosecond."""
    when = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}Z"
