"""What the service allows: requests a minute, rows a page, symbols and bytes a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# -- requests a minute of an account; the trading host has a limit of its own

FREE_PLAN = 200
"""Requests a minute of the plan Basic; Algo Trader Plus has 10,000, brokers 1,000 and more."""
WINDOW_S = 60.0

QUOTA_HEADER = "X-RateLimit-Limit"
REMAINING_HEADER = "X-RateLimit-Remaining"
RESET_HEADER = "X-RateLimit-Reset"
RETRY_HEADER = "Retry-After"


class Quota(NamedTuple):
    """The quota in the headers of an answer; None for a header that is missing or not a number."""

    limit: float | None
    """Requests a minute."""
    remaining: float | None
    reset: float | None
    """When the quota is reset, in Unix time."""
    retry_after: float | None
    """Seconds to wait."""


def quota_of(headers: Mapping[str, str]) -> Quota:
    """Return the quota in an answer's headers, whose names are case-insensitive."""
    texts = {name.lower(): text for name, text in headers.items()}
    names = (QUOTA_HEADER, REMAINING_HEADER, RESET_HEADER, RETRY_HEADER)
    return Quota(*(_number(texts.get(name.lower(), "")) for name in names))


def quota_headers(limit: int, remaining: int, reset: int) -> dict[str, str]:
    """Return the quota as an answer's headers."""
    return {QUOTA_HEADER: str(limit), REMAINING_HEADER: str(remaining), RESET_HEADER: str(reset)}


def _number(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None


# -- rows a page (`limit`), at most

HISTORY_PAGE = 10_000
"""Trades, quotes, bars; counted over all symbols of a request."""
NEWS_PAGE = 50
CHAIN_PAGE = 1_000
"""Snapshots of option contracts."""
CONTRACTS_PAGE = 10_000

# -- requests

RECENT_NS = 16 * 60 * 1_000_000_000
"""What the free plan excludes of the SIPs: the last 15 minutes; one more, because clocks differ. If that is
refused, too, more is left out, up to a day."""
OPTION_SYMBOLS = 100
"""Most contracts in a request. For other symbols only the length of the URL is limited."""
QUERY_BYTES = 6_000
"""Largest URL. Longer ones may get 414; the limit is not documented, servers usually accept 8 kB."""
MESSAGE_BYTES = 32 * 1024
"""Largest message to the stream. For longer ones the service closes the connection or drops symbols."""
AUTH_WITHIN_S = 10.0
"""Seconds from the connection to authentication; then the service closes it."""
