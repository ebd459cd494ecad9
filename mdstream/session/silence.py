"""Tells a connected socket that is dead from one that has nothing to send.

Two kinds of limits. Our own, by channel, hold for the socket as a whole: any data shows that it lives,
and the most talkative channel that is subscribed says how long silence may last; only while the market
is open. Limits a user names hold at all hours, each for its channel alone: while trades still flow,
quotes that stopped are missed all the same.
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
    """After how many silent seconds a connection is given up, by channel."""

    own: Mapping[str, float]
    """The stream's, less what the user named: for the socket as a whole."""
    asked: Mapping[str, float]
    """Those the user named: for each channel alone."""
    always_open: bool

    @classmethod
    def of(cls, spec: StreamSpec, asked: Mapping[str, float]) -> MuteLimits:
        """The limits of stream `spec` when the user `asked` for some."""
        own = {c: s for c, s in spec.mute_after_s.items() if c not in asked}
        return cls(own, asked, spec.always_open)

    def socket(self, subscriptions: Subscriptions) -> float | None:
        """The limit of the socket with what is subscribed now; None: silence is normal."""
        if not self.always_open and not is_open(datetime.now(UTC)):
            return None
        active = (c for c, symbols in subscriptions.active.items() if symbols)
        return min((self.own[c] for c in active if c in self.own), default=None)


class Silence:
    """How long one stream has been silent.

    `rows_of` counts the rows that came by a channel so far; None says that it cannot be told now, for
    what came still waits here.
    """

    # The mutable state: when data came last, and for watched channels their rows and since when.

    def __init__(self, limits: MuteLimits, rows_of: Callable[[str], int | None]) -> None:
        self.last_data = 0.0
        """When the socket brought data last, in seconds of the monotonic clock; set by the reader."""
        self._limits = limits
        self._rows_of = rows_of
        self._seen: dict[str, tuple[int | None, float]] = {}

    def restart(self) -> None:
        """All silence begins anew: the connection does, or we ourselves had stopped to read."""
        self.last_data = time.monotonic()
        self._seen.clear()

    def broken(self, now: float, subscriptions: Subscriptions) -> str:
        """Why the connection must be given up, in words; empty while it need not."""
        limit = self._limits.socket(subscriptions)
        if limit and now - self.last_data > limit:
            return f"connected but mute for {limit:g} s"
        for channel, limit in self._limits.asked.items():
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
