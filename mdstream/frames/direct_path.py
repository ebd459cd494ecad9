"""The interface of the direct path, which decodes usual batches straight to the ends of frames
(`workers.direct`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mdstream.frames.bar_builder import BarBuilder
from mdstream.frames.keyed_frame import KeyedFrameWriter
from mdstream.frames.writer import FrameWriter
from mdstream.handoff.slab import Slab
from mdstream.streams.spec import StreamSpec


class WrittenRows(NamedTuple):
    """Rows of a channel that are behind the last published row of its frame."""

    channel: str
    rows: int
    nulls: int
    """A bit for each column that has a null."""


class DirectBatch(NamedTuple):
    """What a batch holds that was decoded directly."""

    rows: Sequence[WrittenRows]
    messages: int


class DirectPath(Protocol):
    """Decodes batches of one stream. Used only in the feed's process, between other commits."""

    def decode(self, slab: Slab) -> DirectBatch | None:
        """Write a batch's rows behind the last rows of their frames.

        Return None, and nothing has happened, if anything in the batch is unusual.
        """

    def settle(self, before: int) -> bool:
        """Update last values and bars with that batch, once its rows are published.

        `before` is the number of its first row in the trades frame. Return whether bars may be due.
        """

    def count(self, sequence: int, age_ns: int) -> None:
        """Count that batch as committed. The age of a payload is `age_ns` less its receive time."""

    def forget(self) -> None:
        """Look anew where everything is: a batch was committed in another way."""


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
    late: int
    """The word of the trades that came too late for any bar."""
    late_before: int
    """Its value when this process started."""
    lengths: tuple[tuple[int, str], ...]
    """Place in a copy, and the channel whose rows it has."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What the direct path writes to."""

    frames: Mapping[str, FrameWriter]
    """By channel."""
    latest: KeyedFrameWriter | None
    moves: Mapping[str, Sequence[tuple[list[tuple[int, int]], tuple[int, int] | None]]]
    """For each channel with last values, its aspects: pairs of a column of `latest` and its source, and the
    columns of `latest` with time and receipt, if the aspect has a time.
    """
    bars: BarBuilder | None
    counters: Counters
    latency: npt.NDArray[np.uint64]
    feed_delay: npt.NDArray[np.uint64]
    """Counts by bucket (`telemetry.histogram`)."""


MakeDirectPath = Callable[[Path, StreamSpec, Targets], DirectPath | None]
"""Returns the direct path of a stream in a run; None if it has none."""


def no_direct_path(run: Path, spec: StreamSpec, targets: Targets) -> DirectPath | None:
    """Return None: workers decode all batches."""
    return None
