"""Report when a stream's workers lag so far behind that people must know.

lag ─► more than `LAGS_S` ─► one event ─► less than `KEEPS_UP_S` ─► one event
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from mdstream.telemetry.events import EventKind, RunEvent, Severity

log = logging.getLogger(__name__)

LAGS_S = 2.0
"""Age of the oldest payload that is not committed from which a stream counts as overloaded."""
KEEPS_UP_S = 0.5
_AGAIN_S = 60.0
"""How long an overload lasts until it is reported once more."""


class Overload:
    """Whether one stream is overloaded, and since when."""

    # Written only here, in seconds of the monotonic clock.
    _since: float | None
    """None while it is not."""
    _reported_at: float

    def __init__(self, report: Callable[[RunEvent], None] = lambda event: None) -> None:
        self._report = report
        self._since, self._reported_at = None, 0.0

    def check(self, lag_s: float, batches: int, is_full: bool, now: float) -> None:
        """Log and report that the stream is overloaded, or has caught up.

        `lag_s` is the age of the oldest payload that is not committed, `batches` how many batches wait, and
        `is_full` whether no buffer is free.
        """
        fields = {"lag_s": round(lag_s, 3), "batches": batches, "full": is_full}
        if lag_s <= KEEPS_UP_S and self._since is not None:
            text = f"caught up after {now - self._since:.0f} s"
            self._since = None
            self._send(RunEvent(EventKind.RESOURCES, text, Severity.INFO, fields))
        if lag_s < LAGS_S or (self._since is not None and now - self._reported_at < _AGAIN_S):
            return
        self._since = now - lag_s if self._since is None else self._since
        self._reported_at = now
        text = f"overloaded: the oldest of {batches} waiting batches was received {lag_s:.0f} s ago"
        if is_full:
            text += "; all buffers are full, so reading may pause, and the server may close the connection"
        text += ". To keep up, use more workers, or subscribe to fewer symbols or channels"
        self._send(RunEvent(EventKind.RESOURCES, text, Severity.WARNING, fields))

    def _send(self, event: RunEvent) -> None:
        log.log(event.severity, "%s", event.text)
        self._report(event)
