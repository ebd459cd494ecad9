"""Distinguish a connected socket that is dead from one that has nothing to send.

There are two kinds of limits. The stream's own limits apply to the socket as a whole: any data shows that
the socket works, and the busiest subscribed channel sets the limit. Only time in which the data feed is
active (`sessions.active_ns`) counts, as silence and as pace; a night between two sessions does not exist.
Limits from the user's settings apply at all hours, each to its channel: the session notices when quotes
stop although trades still arrive.

A stream's own limit fits symbols that trade much. A thin symbol is quiet for longer, so `Pace` learns how
long the silences of these subscriptions last, and a connection is replaced only after a much longer one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mdstream.streams.spec import StreamSpec
from mdstream.venues.alpaca import sessions
from mdstream.wire.subscription import Subscriptions

_FIRST_S = 300.0
"""Least limit while the pace is unknown: a quote every four minutes is not unusual."""
_KNOWN_AFTER = 30
"""Looks with new data after which the pace is known."""
_MARGIN = 4.0
"""How many times as long as the longest silence so far a silence must be."""
_LONGEST_S = 3600.0
"""Largest limit, unless the stream's own is larger."""


@dataclass(frozen=True, slots=True)
class MuteLimits:
    """Seconds of silence after which a connection is replaced, by channel."""

    by_stream: Mapping[str, float]
    """The stream's own limits, without channels that the user set; for the socket as a whole."""
    by_user: Mapping[str, float]
    """The limits from the settings, each for one channel."""
    feed: str
    """The data feed, whose hours decide when silence is unusual."""

    @classmethod
    def of(cls, spec: StreamSpec, by_user: Mapping[str, float], feed: str) -> MuteLimits:
        """Return the limits of a data feed of stream `spec` with those that the user set."""
        by_stream = {c: s for c, s in spec.mute_after_s.items() if c not in by_user}
        return cls(by_stream, by_user, feed)

    def socket(self, subscriptions: Subscriptions) -> float | None:
        """Return the socket's limit with the present subscriptions; None: silence is normal."""
        active = (c for c, symbols in subscriptions.active.items() if symbols)
        return min((self.by_stream[c] for c in active if c in self.by_stream), default=None)


class Pace:
    """How long the subscribed symbols are usually silent while the data feed is active."""

    # Mutable state, written once a second.
    _longest: float
    """The longest silence that ended with data, in seconds in which the data feed was active."""
    _quiet: float
    """The present silence at the last look, in such seconds."""
    _last_data: float
    """Time of the last data at the last look."""
    _looks: int
    """Looks that found new data while the data feed was active."""
    _fruitless: int
    """Replaced connections since the last data: a new connection was as silent as the one before."""

    def __init__(self) -> None:
        self._longest = self._quiet = self._last_data = 0.0
        self._looks = self._fruitless = 0

    def restart(self) -> None:
        """Note that the present silence is not one of the symbols: the connection is new, or was paused."""
        self._quiet = 0.0

    def observe(self, last_data: float, quiet: float, is_active: Callable[[], bool]) -> None:
        """Note the time of the last data and the present silence, about once a second.

        `quiet` has only the seconds in which the data feed was active.
        """
        if last_data != self._last_data:
            self._last_data = last_data
            self._looks += is_active()
            self._fruitless = 0
            self._longest = max(self._longest, self._quiet)
        self._quiet = quiet

    def replace(self) -> None:
        """Note that a connection is replaced because of its silence."""
        self._fruitless += 1

    def limit(self, least: float) -> float:
        """Return the seconds after which silence is too long, at least `least`."""
        known = max(least, _MARGIN * self._longest)
        usual = known if self._looks >= _KNOWN_AFTER else max(known, _FIRST_S)
        return min(usual * 2.0**self._fruitless, max(least, _LONGEST_S))


class Silence:
    """Measures the silence of one stream.

    `rows_of` returns the number of rows received on a channel; None while received data is not decoded yet.
    """

    last_data: float
    """Time of the last data, in seconds of the monotonic clock; set by the reader."""

    # Written only here, about once a second.
    _seen: dict[str, tuple[int | None, float]]
    """For each watched channel, its number of rows, and since when it has been that."""
    _pace: Pace
    _since: float
    """When the timers were restarted."""

    def __init__(self, limits: MuteLimits, rows_of: Callable[[str], int | None]) -> None:
        self.last_data = self._since = 0.0
        self._limits = limits
        self._rows_of = rows_of
        self._seen = {}
        self._pace = Pace()

    def restart(self) -> None:
        """Restart all timers: the connection is new, or reading was paused."""
        self._since = time.monotonic()
        self._pace.restart()
        self._seen.clear()

    def find_fault(self, now: float, subscriptions: Subscriptions) -> str:
        """Return why the connection must be replaced; empty if it is in order."""
        limit = self._limits.socket(subscriptions)
        quiet = self._quiet(now)
        if limit:
            self._pace.observe(self.last_data, quiet, self._is_active)
            if quiet > self._pace.limit(limit) and self._is_active():
                limit = self._pace.limit(limit)
                self._pace.replace()
                return f"connected but mute for {limit:g} s"
        for channel, limit in self._limits.by_user.items():
            if not subscriptions.active.get(channel):
                self._seen.pop(channel, None)
                continue
            rows = self._rows_of(channel)
            before, since = self._seen.get(channel, (-1, now))
            if rows is None or rows != before:
                self._seen[channel] = (rows, now)
            elif now - since > limit:
                return f"connected but no {channel} for {limit:g} s"
        return ""

    def _quiet(self, now: float) -> float:
        """Return the seconds of the present silence in which the data feed was active."""
        at = time.time_ns()
        silent = round((now - max(self.last_data, self._since)) * 1e9)
        return sessions.active_ns(self._limits.feed, at - silent, at) / 1e9

    def _is_active(self) -> bool:
        return sessions.is_active(self._limits.feed, time.time_ns())
