"""Distinguish a connected socket that is dead from one that has nothing to send.

There are two kinds of limits. The stream's own limits apply to the socket as a whole, and only while the
market is open: any data shows that the socket works, and the busiest subscribed channel sets the limit.
Limits from the user's settings apply at all hours, each to its channel: the session notices when quotes
stop although trades still arrive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mdstream.streams.spec import StreamSpec
from mdstream.venues.alpaca.hours import is_open
from mdstream.wire.subscription import Subscriptions


@dataclass(frozen=True, slots=True)
class MuteLimits:
    """Seconds of silence after which a connection is replaced, by channel."""

    by_stream: Mapping[str, float]
    """The stream's own limits, without channels that the user set; for the socket as a whole."""
    by_user: Mapping[str, float]
    """The limits from the settings, each for one channel."""
    always_open: bool

    @classmethod
    def of(cls, spec: StreamSpec, by_user: Mapping[str, float]) -> MuteLimits:
        """Return the limits of stream `spec` with those that the user set."""
        by_stream = {c: s for c, s in spec.mute_after_s.items() if c not in by_user}
        return cls(by_stream, by_user, spec.always_open)

    def socket(self, subscriptions: Subscriptions) -> float | None:
        """Return the socket's limit with the present subscriptions; None: silence is normal."""
        if not self.always_open and not is_open(datetime.now(UTC)):
            return None
        active = (c for c, symbols in subscriptions.active.items() if symbols)
        return min((self.by_stream[c] for c in active if c in self.by_stream), default=None)


class Silence:
    """Measures the silence of one stream.

    `rows_of` returns the number of rows received on a channel; None while received data is not decoded yet.
    """

    # Mutable state: time of the last data; for watched channels the number of rows, and since when.

    def __init__(self, limits: MuteLimits, rows_of: Callable[[str], int | None]) -> None:
        self.last_data = 0.0
        """Time of the last data, in seconds of the monotonic clock; set by the reader."""
        self._limits = limits
        self._rows_of = rows_of
        self._seen: dict[str, tuple[int | None, float]] = {}

    def restart(self) -> None:
        """Restart all timers: the connection is new, or reading was paused."""
        self.last_data = time.monotonic()
        self._seen.clear()

    def broken(self, now: float, subscriptions: Subscriptions) -> str:
        """Return why the connection must be replaced; empty if it is in order."""
        limit = self._limits.socket(subscriptions)
        if limit and now - self.last_data > limit:
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
