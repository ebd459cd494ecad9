"""The state of a feed in shared memory: its counters, exact at every moment, even if the feed is killed.

    word 0   a checksum of the metrics: a reader of another version refuses to read
    live     a word for each metric whose source is LIVE
    copies   two words for each metric whose source is COMMITTED or LENGTH
    buckets  `BUCKETS` words for each histogram

The counts of a commit change all at once: it writes the copy that is not in use, then one word, the
sequence number of its batch. The parity of that number selects the current copy. Every other word is
independent.

The feed writes. The supervisor writes while there is no feed, and counts restarts. Readers map the file
read-only. `telemetry.metrics` names the words.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mdstream.errors import NoRunError
from mdstream.frames.head import Head
from mdstream.handoff.space import create_file
from mdstream.telemetry.histogram import BUCKETS, Counts
from mdstream.telemetry.metrics import STREAM, Source

LIVE = tuple(m.name for m in STREAM if m.source is Source.LIVE)
LENGTHS = tuple(m.name for m in STREAM if m.source is Source.LENGTH)
COMMITTED = tuple(m.name for m in STREAM if m.source is Source.COMMITTED) + LENGTHS
HISTOGRAMS = tuple(m.name for m in STREAM if m.source is Source.BUCKETS)

_LIVE = {name: index for index, name in enumerate(LIVE, 1)}
_COMMITTED = {name: index for index, name in enumerate(COMMITTED)}
_FIRST_LENGTH = len(COMMITTED) - len(LENGTHS)
COPIES = 1 + len(LIVE)
"""The first word of the two copies."""
_HISTOGRAMS = COPIES + 2 * len(COMMITTED)
_WORDS = _HISTOGRAMS + len(HISTOGRAMS) * BUCKETS
_TICK_S = 0.1
"""Changes of a folder that are so close together may have the same time."""
_LAYOUT = zlib.crc32(" ".join((*LIVE, *COMMITTED, *HISTOGRAMS, str(BUCKETS))).encode())


class FeedState:
    """The metrics of one feed. One process writes, any may read.

    Raises `NoRunError` if an engine of another version, with other metrics, wrote the file.
    """

    # The mutable state, all of it in shared memory: the words, and the buckets of each histogram.
    _words: memoryview
    histograms: dict[str, Counts]
    # Written by a reader, in `count_rows`.
    _heads: dict[str, Head]
    """The heads of the stream's frames, by name."""
    _changed: tuple[int, float]
    """When the folder of frames was changed last (ns), and the monotonic time when that was seen (s)."""
    _listed: int
    """The time of the change since which `_heads` has all frames; 0 if there is none."""

    def __init__(self, path: Path, write: bool = False) -> None:
        with path.open("r+b" if write else "rb") as file:
            access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
            mapping = mmap.mmap(file.fileno(), 0, access=access)
        self._words = memoryview(mapping).cast("Q")
        if self._words[0] != _LAYOUT:
            raise NoRunError(
                f"{path}: written by another version of mdstream, with other metrics; use the same version"
            )
        self._heads, self._changed, self._listed = {}, (0, 0.0), 0
        self.words: Counts = np.frombuffer(mapping, np.uint64)
        """All words, for kernels."""
        counts = self.words[_HISTOGRAMS:]
        self.histograms = dict(zip(HISTOGRAMS, np.split(counts, len(HISTOGRAMS)), strict=True))

    @staticmethod
    def word_of(name: str) -> int:
        """Return the word of a live metric."""
        return _LIVE[name]

    @staticmethod
    def place_of(name: str) -> int:
        """Return the place of a counter in each copy. The copies have `len(COMMITTED)` words each."""
        return _COMMITTED[name]

    @staticmethod
    def create(path: Path) -> FeedState:
        """Create the file of a new run, filled with zeros, and open it for writing."""
        hidden = path.with_suffix(".new")
        descriptor = create_file(hidden, _WORDS * 8, os.O_TRUNC)
        try:
            os.pwrite(descriptor, _LAYOUT.to_bytes(8, "little"), 0)
        finally:
            os.close(descriptor)
        hidden.rename(path)
        return FeedState(path, write=True)

    # -- read by any process

    def __getitem__(self, name: str) -> int:
        return self._words[_LIVE[name]]

    def read_committed(self) -> dict[str, int]:
        """Return the counters as of the last commit, all from the same moment."""
        while True:
            sequence = self["sequence"]
            start = COPIES + sequence % 2 * len(COMMITTED)
            values = self._words[start : start + len(COMMITTED)].tolist()
            if self["sequence"] == sequence:
                return dict(zip(COMMITTED, values, strict=True))

    def values(self) -> dict[str, Any]:
        """Return all metrics whose source is the state, and all formulas, internal ones too.

        At every call, messages received = committed + rejected + in flight.
        """
        values: dict[str, Any] = self.read_committed()
        values |= dict(zip(LIVE, self._words[1:COPIES].tolist(), strict=True))
        values |= {name: counts.copy() for name, counts in self.histograms.items()}
        for metric in STREAM:
            if not isinstance(metric.source, Source):
                values[metric.name] = metric.source(values)
        return values

    def count_rows(self, run: Path, stream: str) -> int:
        """Return the rows of all frames of `stream` in the run in folder `run`."""
        frames = run / "frames"
        with contextlib.suppress(FileNotFoundError):  # the run was removed
            if (changed := frames.stat().st_mtime_ns) != self._listed:
                if changed != self._changed[0]:
                    self._changed = changed, time.monotonic()
                self._find_heads(frames, stream)
        return sum(head.rows for head in self._heads.values())

    def _find_heads(self, frames: Path, stream: str) -> None:
        """Find the new frames of `stream`; note if they are all that there are until the next change."""
        changed, seen_at = self._changed
        is_complete = time.monotonic() - seen_at > _TICK_S
        for folder in frames.glob(f"{stream}.*"):
            if folder.name in self._heads:
                continue
            if (folder / "head").exists():
                self._heads[folder.name] = Head(folder, write=False)
            else:
                is_complete = False
        self._listed = changed if is_complete else 0

    # -- written by one process at a time

    def __setitem__(self, name: str, value: int) -> None:
        self._words[_LIVE[name]] = value

    def commit(self, sequence: int, **added: int) -> None:
        """Count batch `sequence`: add to counters, set lengths. Exactly once, or not at all."""
        current = COPIES + self["sequence"] % 2 * len(COMMITTED)
        values = self._words[current : current + len(COMMITTED)].tolist()
        for name, value in added.items():
            index = _COMMITTED[name]
            values[index] = value if index >= _FIRST_LENGTH else values[index] + value
        start = COPIES + sequence % 2 * len(COMMITTED)
        for index, value in enumerate(values, start):
            self._words[index] = value
        self["sequence"] = sequence


def read_stream(run: Path, stream: str, state: FeedState) -> dict[str, Any]:
    """Return every metric of `stream` at this moment, by name, for the run in folder `run`.

    Values are numbers; a histogram is an array of counts by bucket. A percentile without messages is None.
    """
    values = state.values()
    values["rows"] = state.count_rows(run, stream)
    return {metric.name: values[metric.name] for metric in STREAM if not metric.is_internal}
