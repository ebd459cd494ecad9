"""Query parameters of REST, and how times are written in them."""

from __future__ import annotations

from datetime import UTC, datetime

SYMBOLS = "symbols"
"""Separated by commas. One that is malformed fails the whole request."""
START, END = "start", "end"
"""RFC 3339 or a date; both ends are inside."""
LIMIT = "limit"
PAGE_TOKEN = "page_token"
"""A position in the answer; rows that the service inserts before it later are not seen."""
SORT, ASCENDING = "sort", "asc"
FEED, TIMEFRAME, ADJUSTMENT = "feed", "timeframe", "adjustment"


def format_time(ns: int) -> str:
    """Write a time (ns since 1970) to the nanosecond."""
    when = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}Z"
