"""The latest data, which the free plan excludes: how far back a backfill may request.

    refused ─► 16 minutes before now ─► refused ─► 32 minutes ─► ... ─► a day ─► refused: final

The service documents 15 minutes. More may be excluded, and the clock of this machine may be fast. A repair
compares only days that were over before the same limit.
"""

from __future__ import annotations

import logging

from mdstream.errors import MdstreamError
from mdstream.history.request import DAY_NS
from mdstream.store.query import to_utc
from mdstream.venues.alpaca.limits import RECENT_NS
from mdstream.venues.alpaca.refusals import Place, RefusalKind, find_rule

log = logging.getLogger(__name__)

_MINUTE_NS = 60 * 1_000_000_000


def is_about_recent_data(error: MdstreamError, code: int | None) -> bool:
    """Return whether a request was refused, with HTTP status `code`, because its end is too recent."""
    rule = find_rule(Place.REST, code or 0, text=str(error))
    return rule is not None and rule.before is RefusalKind.PLAN_LATER


class RecentLimit:
    """Up to when data may be requested. There is no limit before the first refusal."""

    # Written by `widen`.
    until: int | None
    """Later data is not requested (ns since 1970)."""

    def __init__(self) -> None:
        self.until = None

    def last_served(self, now: int) -> int:
        """Return up to when any plan may be expected to have data: before now, and before the limit."""
        documented = now - RECENT_NS
        return documented if self.until is None else min(self.until, documented)

    def excludes(self, end: int) -> bool:
        """Return whether a query that ends at `end` (exclusive) is not to be sent."""
        return self.until is not None and end > self.until + 1

    def widen(self, end: int, now: int) -> bool:
        """Note that a query that ends at `end` was refused; return whether an earlier end may be served.

        If several queries were sent before the limit changed, only the first changes it.
        """
        if self.excludes(end):
            return True
        margin = RECENT_NS
        while margin < DAY_NS and end <= now - margin + 1:
            margin *= 2
        margin = min(margin, DAY_NS)
        if end <= now - margin + 1:
            return False
        self.until = now - margin
        log.warning(
            "the plan excludes the last %d minutes or so: fetching up to %s; the next run continues there",
            margin // _MINUTE_NS,
            format_limit(self.until),
        )
        return True


def format_limit(until: int) -> str:
    """Return the time of a limit as text."""
    return f"{to_utc(until):%Y-%m-%dT%H:%M:%SZ}"
