"""Sessions of the data feeds: when each has data. The one place that knows holidays and half days.

    US stocks, New York time, on a trading day        half day

    20:00 of the day before ─► overnight ─► 4:00      the same
     4:00 ─► pre ─► 9:30                              the same
     9:30 ─► regular ─► 16:00                         ─► 13:00
    16:00 ─► post ─► 20:00                            13:00 ─► 17:00

A data feed has some of these sessions, or a part of one (`HOURS`). A feed that is not in the table is
always open. Trading days and half days are in `trading_days`.

All times are ns since 1970 UTC.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from mdstream.errors import ConfigError, UnknownNameError
from mdstream.venues.alpaca.trading_days import HALF, is_trading_day, list_trading_days

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl

    Times = npt.NDArray[np.int64]

NEW_YORK = ZoneInfo("America/New_York")

_OPEN, _CLOSE, _CLOSE_HALF = timedelta(hours=9.5), timedelta(hours=16), timedelta(hours=13)
_DAWN, _DUSK = timedelta(hours=4), timedelta(hours=20)
"""Times of a day in New York."""

_MINUTE_NS = 60 * 1_000_000_000
_HOUR_NS = 60 * _MINUTE_NS
_DAY_NS = 24 * _HOUR_NS


class Session(StrEnum):
    """A part of a trading day."""

    PRE = "pre"
    REGULAR = "regular"
    POST = "post"
    OVERNIGHT = "overnight"


class Window(NamedTuple):
    """One session of one day: `first` is inclusive, `past` exclusive."""

    session: Session
    first: int
    past: int


@dataclass(frozen=True, slots=True)
class Hours:
    """Which sessions a data feed has; hours are those of New York.

    `pre` is the hour at which its day begins, and `post` the hour at which it ends, on a half day
    `post_half`; None: at the open, and at the close. `late` after the close is regular. Messages are
    `delay_ns` behind the market.
    """

    pre: int | None = None
    post: int | None = None
    post_half: int | None = None
    late: timedelta = timedelta(0)
    has_day: bool = True
    has_overnight: bool = False
    delay_ns: int = 0

    @property
    def main_session(self) -> Session:
        """The session in which silence is unusual."""
        return Session.REGULAR if self.has_day else Session.OVERNIGHT


_EXTENDED = Hours(pre=4, post=20, post_half=17)
_NIGHT = Hours(has_day=False, has_overnight=True)
_CONTRACTS = Hours(late=timedelta(minutes=15))
"""Contracts on some funds and indices trade until 16:15."""

ALL_SESSIONS = Hours(pre=4, post=20, post_half=17, has_overnight=True)
"""The sessions of US stocks on any venue."""

HOURS: Mapping[str, Hours] = {
    "iex": Hours(pre=8, post=17, post_half=17),
    "sip": _EXTENDED,
    "delayed_sip": Hours(pre=4, post=20, post_half=17, delay_ns=15 * _MINUTE_NS),
    "otc": _EXTENDED,
    "boats": _NIGHT,
    "overnight": _NIGHT,
    "indicative": _CONTRACTS,
    "opra": _CONTRACTS,
}
"""Data feed → its hours; a feed that is missing here is always open.

Sources: Alpaca's documentation (2026-09) for the feeds, the venues' own hours (IEX 8:00 to 17:00, Blue
Ocean 20:00 to 4:00, Sunday to Thursday), Nasdaq and NYSE Arca for half days.
"""


def find_windows(feed: str, first: int, past: int) -> list[Window]:
    """Return the sessions of a data feed that overlap a time range, in order, each as a whole."""
    if feed not in HOURS:
        return [Window(Session.REGULAR, first, past)] if first < past else []
    if first >= past:
        return []
    starts, ends, kinds = _windows(HOURS[feed])
    import numpy as np

    begin = int(np.searchsorted(ends, first, "right"))
    end = int(np.searchsorted(starts, past, "left"))
    return [Window(_KINDS[kinds[i]], int(starts[i]), int(ends[i])) for i in range(begin, end)]


def is_closed(feed: str, first: int, past: int) -> bool:
    """Return whether a data feed has no session on any of the UTC days that a time range touches.

    Days beyond the known ones count as open.
    """
    if feed not in HOURS:
        return False
    first, past = first // _DAY_NS * _DAY_NS, -(-past // _DAY_NS) * _DAY_NS
    days = _trading_days()
    is_known = days.opens[0] <= first and past <= days.closes[-1]
    return bool(is_known) and not find_windows(feed, first, past)


def active_ns(feed: str, first: int, past: int) -> int:
    """Return how many ns of a time range are active: messages of the data feed are to be expected then.

    Only this time counts as silence. Active is the data feed's main session, without `late`, when only
    some contracts trade.
    """
    if feed not in HOURS:
        return max(0, past - first)
    day, last = (_to_local(at).date() for at in (first, past))
    last += timedelta(1)  # its night begins on the day before
    total = 0
    while day <= last:
        begin, end = _active_part(HOURS[feed], day)
        total += max(0, min(past, end) - max(first, begin))
        day += timedelta(1)
    return total


def is_active(feed: str, at: int) -> bool:
    """Return whether messages of a data feed are to be expected at a time: silence is then unusual."""
    return active_ns(feed, at, at + 1) > 0


@functools.lru_cache(64)
def _active_part(hours: Hours, day: date) -> tuple[int, int]:
    """Return start and end of the active part of a day; equal without one."""
    if not is_trading_day(day):
        return 0, 0
    midnight = round(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).timestamp()) * 1_000_000_000
    if hours.main_session is Session.OVERNIGHT:
        begin, end = _DUSK - timedelta(1), _DAWN
    else:
        begin, end = _OPEN, _CLOSE_HALF if day in HALF else _CLOSE
    return midnight + _to_ns(begin) + hours.delay_ns, midnight + _to_ns(end) + hours.delay_ns


def read_sessions(names: str | Sequence[str]) -> list[str]:
    """Return the names of sessions. Raises `UnknownNameError` for another one, and `ConfigError`."""
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"session: {names!r} is neither a session nor a list of sessions")
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in set(Session):
            raise UnknownNameError.among(
                [each.value for each in Session], name, f"session: {name!r} is not a session"
            )
    return wanted


def join_hours(feeds: Iterable[str]) -> Hours:
    """Return the sessions that any of several data feeds has. Feeds that are always open do not count."""
    known = [HOURS[feed] for feed in feeds if feed in HOURS]

    def find(most: Callable[[list[int]], int], values: Iterable[int | None]) -> int | None:
        present = [value for value in values if value is not None]
        return most(present) if present else None

    return Hours(
        pre=find(min, (each.pre for each in known)),
        post=find(max, (each.post for each in known)),
        post_half=find(max, (each.post_half for each in known)),
        late=max((each.late for each in known), default=timedelta(0)),
        has_day=any(each.has_day for each in known),
        has_overnight=any(each.has_overnight for each in known),
    )


def classify(times: pl.Series, hours: Hours = ALL_SESSIONS) -> pl.Series:
    """Return the session of each of `times`, Datetime in UTC, as a String: `pre`, `regular`, `post`,
    `overnight`; null while a market of these `hours` is closed, and for null.
    """
    import numpy as np
    import polars as pl

    names = [session.value for session in _KINDS]
    starts, ends, kinds = _windows(hours)
    at = times.dt.epoch("ns").fill_null(-1).to_numpy()
    place = np.searchsorted(starts, at, "right") - 1
    inside = (place >= 0) & (at < ends[place])
    codes = pl.Series(times.name, np.where(inside, kinds[place], len(names)))
    return codes.replace_strict(list(range(len(names) + 1)), [*names, None], return_dtype=pl.String)


# -- the calendar

_KINDS = tuple(Session)


class _Days(NamedTuple):
    """Trading days: their midnight in New York, open and close, and whether they are half days."""

    midnights: Times
    opens: Times
    closes: Times
    is_half: npt.NDArray[np.bool_]


@functools.cache
def _trading_days() -> _Days:
    """Return all known trading days."""
    import numpy as np

    days = list(list_trading_days())
    seconds = [datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).timestamp() for day in days]
    midnights = np.asarray(seconds, np.int64) * 1_000_000_000
    # The clocks change on Sundays, which are no trading days, so that each hour has 60 minutes.
    is_half = np.asarray([day in HALF for day in days])
    closes = midnights + np.where(is_half, _to_ns(_CLOSE_HALF), _to_ns(_CLOSE))
    return _Days(midnights, midnights + _to_ns(_OPEN), closes, is_half)


def _to_local(at: int) -> datetime:
    return datetime.fromtimestamp(at // 1_000_000_000, UTC).astimezone(NEW_YORK)


def _to_ns(into: timedelta) -> int:
    return into // timedelta(microseconds=1) * 1000


@functools.cache
def _windows(hours: Hours) -> tuple[Times, Times, Times]:
    """Return start, end and kind (index in `_KINDS`) of every session, in order."""
    import numpy as np

    midnights, opens, closes, is_half = _trading_days()
    parts: list[tuple[Session, Times, Times]] = []
    if hours.has_overnight:
        parts.append((Session.OVERNIGHT, midnights - 4 * _HOUR_NS, midnights + 4 * _HOUR_NS))
    if hours.has_day:
        if hours.pre is not None:
            parts.append((Session.PRE, midnights + hours.pre * _HOUR_NS, opens))
        parts.append((Session.REGULAR, opens, closes + _to_ns(hours.late)))
        if hours.post is not None and hours.post_half is not None:
            ends = midnights + np.where(is_half, hours.post_half, hours.post) * _HOUR_NS
            parts.append((Session.POST, closes, ends))
    starts = np.concatenate([part[1] for part in parts])
    ends = np.concatenate([part[2] for part in parts])
    kinds = np.repeat([_KINDS.index(part[0]) for part in parts], len(midnights))
    order = np.argsort(starts, kind="stable")
    return starts[order], ends[order], kinds[order]
