"""A feed's counters, in shared memory: exact at every moment, also at that of a kill.

The counters of what was committed change all at once. They are kept twice; a commit writes the copy
not in use, and then one word, the sequence number of its batch, whose parity says which copy counts.
All other words are single counters. The supervisor only reads.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from mdstream.handoff.space import reserve
from mdstream.telemetry.histogram import BUCKETS

COMMITTED = (
    "payloads",
    "bytes",
    "messages",
    "rejected",
    "fetch_payloads",
    "fetch_messages",
    "fetch_rejected",
    "quarantined",
    "batches",
    "trade_rows",
    "midpoint_rows",
    "correction_rows",
    "cancel_rows",
)
"""Counters that change with a commit. The last ones are lengths of the frames that bars are made of."""

LENGTHS = COMMITTED[-4:]

LIVE = (
    "heartbeat_ns",
    "pid",
    "generation",
    "sequence",
    "payloads_received",
    "bytes_received",
    "fetch_payloads_received",
    "control",
    "reconnects",
    "connected",
    "established",
    "stalls",
    "cycles",
    "requests",
    "symbols_ok",
    "symbols_failed",
    "t_stream_ns",
    "pool_size",
    "pool_busy",
    "pool_queue",
    "pool_rebuilds",
    "slabs",
    "bars_late",
    "bars_unmatched",
    "levels_dropped",
    "journal_missed",
)
"""Counters and gauges that stand alone. `sequence` is that of the last committed batch; `bars_late` counts
trades that came too late for any bar, `bars_unmatched` corrections and cancels of what is no longer here,
`levels_dropped` levels beyond the best 1,000 of a side of an order book, `journal_missed` payloads that
could not be written to the journal.
"""

_LIVE = {name: index for index, name in enumerate(LIVE)}
_COMMITTED = {name: index for index, name in enumerate(COMMITTED)}
_COPY = 64
_HISTOGRAMS = _COPY + 2 * len(COMMITTED)
_WORDS = _HISTOGRAMS + 2 * BUCKETS


class FeedState:
    """The counters of one feed. One process writes, any may read."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(mapping).cast("Q")
        counts = np.frombuffer(mapping, np.uint64)
        self.latency = counts[_HISTOGRAMS : _HISTOGRAMS + BUCKETS]
        """Receive → visible to readers, messages by bucket."""
        self.feed_delay = counts[_HISTOGRAMS + BUCKETS :]
        """Event time → receive, messages by bucket."""

    @staticmethod
    def create(path: Path) -> FeedState:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            reserve(descriptor, _WORDS * 8, path)
        finally:
            os.close(descriptor)
        return FeedState(path)

    def __getitem__(self, name: str) -> int:
        return self._words[_LIVE[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self._words[_LIVE[name]] = value

    def committed(self) -> dict[str, int]:
        """The counters as of the last commit, all from the same moment."""
        while True:
            sequence = self["sequence"]
            start = _COPY + sequence % 2 * len(COMMITTED)
            values = self._words[start : start + len(COMMITTED)].tolist()
            if self["sequence"] - sequence <= 1 and self["sequence"] == sequence:
                return dict(zip(COMMITTED, values, strict=True))

    def commit(self, sequence: int, **added: int) -> None:
        """Count batch `sequence`: `added` to each counter, lengths set. Once or not at all."""
        current = self.committed()
        start = _COPY + sequence % 2 * len(COMMITTED)
        for name, index in _COMMITTED.items():
            base = 0 if name in LENGTHS else current[name]
            self._words[start + index] = base + added.get(name, 0)
        self["sequence"] = sequence

    def accounts(self) -> dict[str, int]:
        """Messages received = committed + rejected + in flight; a payload in flight counts as one."""
        done = self.committed()
        in_flight = max(0, self["payloads_received"] - done["payloads"])
        return {
            "payloads": done["payloads"] + in_flight,
            "messages": done["messages"] + in_flight,
            "bytes": max(self["bytes_received"], done["bytes"]),
            "committed": done["messages"] - done["rejected"],
            "rejected": done["rejected"],
            "in_flight": in_flight,
        }
