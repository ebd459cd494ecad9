"""Report that this machine's clock is behind the times of the messages.

A time far ahead of its receipt is not believed (`streams.spec.MOST_AHEAD_NS`). While the clock of this
machine is wrong by as much, that is so for all messages: the last values and the bars stand still. Rows,
recordings and journals are complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

from mdstream.frames.writer import FrameWriter
from mdstream.streams.spec import MOST_AHEAD_NS, StreamSpec
from mdstream.telemetry.events import EventKind, RunEvent, Severity

log = logging.getLogger(__name__)

_LOOKS = 5
"""So many looks in a row must find only such times: one message says nothing about the clock."""


class ClockCheck:
    """The check of one stream. Used only in the feed's loop."""

    # Written only here.
    _rows: dict[str, int]
    """Rows of each channel at the last look."""
    _behind: int
    """Looks in a row that found the clock behind."""

    def __init__(
        self, spec: StreamSpec, frames: Mapping[str, FrameWriter], report: Callable[[RunEvent], None]
    ) -> None:
        self._channels = [c for c in spec.channels if c.is_timely and c.name in frames]
        self._frames = frames
        self._report = report
        self._rows, self._behind = {}, 0

    def look(self) -> None:
        """Compare times and receive times of the newest rows; call it about once a second or more often."""
        ahead = min(self._find_ahead(), default=None)
        if ahead is None:
            return
        before, self._behind = self._behind, self._behind + 1 if ahead > MOST_AHEAD_NS else 0
        if self._behind == _LOOKS:
            text = (
                f"the clock of this machine is {ahead / 1e9:.0f} s behind the times of the messages: "
                "last values and bars stand still until it is set right (check NTP)"
            )
            self._send(
                RunEvent(EventKind.CLOCK, text, Severity.WARNING, {"behind_s": round(ahead / 1e9, 3)})
            )
        elif before >= _LOOKS and not self._behind:
            text = "the clock of this machine agrees with the times of the messages again"
            self._send(RunEvent(EventKind.CLOCK, text, Severity.INFO, {}))

    def _find_ahead(self) -> Iterator[int]:
        """Yield what the time of the last row is ahead of its receipt (ns), for channels with new rows."""
        for channel in self._channels:
            frame = self._frames[channel.name]
            chunk, _, row = frame.end_of_rows()
            if chunk is not None and row and self._rows.get(channel.name) != frame.rows:
                self._rows[channel.name] = frame.rows
                time, received = (
                    chunk.views[channel.at[name]].values for name in (channel.time, "recv_ts")
                )
                yield int(time[row - 1]) - int(received[row - 1])

    def _send(self, event: RunEvent) -> None:
        log.log(event.severity, "%s", event.text)
        self._report(event)
