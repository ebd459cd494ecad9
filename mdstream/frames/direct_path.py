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
    partials: npt.NDArray[np.void]
    """`PARTIAL` rows for the bars."""
    bytes: int
    messages: int


class DirectPath(Protocol):
    """Decodes batches of one stream. Used only in the feed's process, between other commits."""

    def decode(self, slab: Slab) -> DirectBatch | None:
        """Write a batch's rows behind the last rows of their frames.

        Return None, and nothing has happened, if anything in the batch is unusual.
        """

    def settle(self, age_ns: int) -> None:
        """Update last values and histograms with that batch, once its rows are published.

        The age of a payload is `age_ns` less its receive time.
        """

    def forget(self) -> None:
        """Look anew where everything is: a batch was committed in another way."""


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
    latency: npt.NDArray[np.uint64]
    feed_delay: npt.NDArray[np.uint64]
    """Counts by bucket (`telemetry.histogram`)."""


MakeDirectPath = Callable[[Path, StreamSpec, Targets], DirectPath | None]
"""Returns the direct path of a stream in a run; None if it has none."""
