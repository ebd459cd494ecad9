"""The interface of the direct path, which commits usual batches in one call (`workers.direct`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mdstream.frames.bar_builder import BarBuilder
from mdstream.frames.book_levels import BookLevels
from mdstream.frames.keyed_frame import KeyedFrameWriter
from mdstream.frames.writer import FrameWriter
from mdstream.handoff.slab import Slab
from mdstream.streams.spec import PayloadKind, StreamSpec
from mdstream.system.clock import Moment


class DirectPath(Protocol):
    """Commits batches of one stream. Used only in the feed's process, between other commits."""

    def commit(self, slab: Slab, sequence: int, submitted: Moment) -> int | None:
        """Decode a batch and commit it, in the order of `feed.commit`; return the CPU time (ns).

        Return None, and nothing has happened, if anything in it is unusual. Raises `NoSpaceError` if bars
        find no room; then the batch does not count as committed.
        """

    def commit_alone(
        self, slab: Slab, sequence: int, payload: bytes, kind: PayloadKind, recv_ns: int
    ) -> int | None:
        """Put a payload into a free slab, and commit it as a batch; free the slab, and return the CPU time.

        Return None, and nothing has happened, if anything in it is unusual. Raises `HalfDoneError` if the
        batch is not counted as committed, but may be in frames.
        """

    def forget(self) -> None:
        """Discard the cached addresses: a batch was committed in another way."""


class Counters(NamedTuple):
    """The words of a feed's state (`telemetry.state`) that a batch changes."""

    words: npt.NDArray[np.uint64]
    """All words."""
    copies: int
    """The first word of the two copies of the counters."""
    size: int
    """The words of each copy."""
    sequence: int
    """The word with the sequence of the last batch."""
    payloads: int
    """Place in a copy; so are the next three."""
    bytes: int
    messages: int
    batches: int
    payloads_received: int
    """The word of received payloads; the next one is that of their bytes."""
    bytes_received: int
    late: int
    """The word of the trades that came too late for any bar."""
    late_before: int
    """Its value when this process started."""
    lengths: tuple[tuple[int, str], ...]
    """Place in a copy, and the channel whose rows it has."""


FinishBars = Callable[[int, npt.NDArray[np.void], Sequence[int], int], None]
"""Finishes the bars of a batch, and publishes those that are due. Arguments: its sequence, its partials,
how many of them were joined to the bars of each length, and its number of trades.
"""


class AspectMoves(NamedTuple):
    """What rows of a channel update in the frame of last values: one aspect."""

    moved: list[tuple[int, int]]
    """Pairs of a column of the frame and its source in the channel."""
    order: tuple[int, int] | None
    """The columns of the frame with the aspect's time and receipt; None if it has no time."""


class BookTargets(NamedTuple):
    """What changes of order books are written to."""

    frame: KeyedFrameWriter
    """The best levels, a row for each book."""
    ladders: BookLevels


@dataclass(frozen=True, slots=True)
class Targets:
    """What the direct path writes to."""

    frames: Mapping[str, FrameWriter]
    """By channel."""
    latest: KeyedFrameWriter | None
    moves: Mapping[str, Sequence[AspectMoves]]
    """For each channel with last values, what it updates in `latest`."""
    books: BookTargets | None
    bars: BarBuilder | None
    finish_bars: FinishBars
    counters: Counters
    latency: npt.NDArray[np.uint64]
    feed_delay: npt.NDArray[np.uint64]
    """Counts by bucket (`telemetry.histogram`)."""
    log: npt.NDArray[np.int64]
    """Room for rows of `telemetry.batches`."""
    logged: npt.NDArray[np.int64]
    """How many of them are taken."""


MakeDirectPath = Callable[[Path, StreamSpec, Targets], DirectPath | None]
"""Returns the direct path of a stream in a run; None if it has none."""


def no_direct_path(run: Path, spec: StreamSpec, targets: Targets) -> DirectPath | None:
    """Return None: workers decode all batches."""
    return None
