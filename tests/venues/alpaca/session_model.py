"""The session of one time, computed plainly: the model for `mdstream.venues.alpaca.sessions`."""

from __future__ import annotations

from datetime import datetime, timedelta

from mdstream.venues.alpaca.sessions import HOURS, NEW_YORK, Session
from mdstream.venues.alpaca.trading_days import HALF, is_trading_day

_OPEN, _CLOSE, _CLOSE_HALF = timedelta(hours=9.5), timedelta(hours=16), timedelta(hours=13)
_DAWN, _DUSK = timedelta(hours=4), timedelta(hours=20)


def session_at(feed: str, at: int) -> Session | None:
    """Return the session of a data feed at a time; None if it is closed. Always open counts as regular."""
    if feed not in HOURS:
        return Session.REGULAR
    hours = HOURS[feed]
    local = datetime.fromtimestamp(at // 1_000_000_000, NEW_YORK)
    into = timedelta(hours=local.hour, minutes=local.minute, seconds=local.second)
    day = local.date()
    if hours.has_overnight and (
        (into < _DAWN and is_trading_day(day)) or (into >= _DUSK and is_trading_day(day + timedelta(1)))
    ):
        return Session.OVERNIGHT
    if not hours.has_day or not is_trading_day(day):
        return None
    is_half = day in HALF
    close, post = (_CLOSE_HALF, hours.post_half) if is_half else (_CLOSE, hours.post)
    if _OPEN <= into < close + hours.late:
        return Session.REGULAR
    if hours.pre is not None and timedelta(hours=hours.pre) <= into < _OPEN:
        return Session.PRE
    if post is not None and close <= into < timedelta(hours=post):
        return Session.POST
    return None
