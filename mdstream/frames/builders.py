"""The interface of what a feed needs from `workers` (`workers.boot`) to build frames from rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mdstream.frames.bar_builder import BarBuilder, TextOf
from mdstream.frames.book_levels import BookLevels
from mdstream.frames.frame_columns import FrameColumns
from mdstream.streams.spec import StreamSpec


class Builders(Protocol):
    """Makes the builders of one feed."""

    def make_bars(self, spec: StreamSpec, frames: Mapping[str, FrameColumns], text: TextOf) -> BarBuilder:
        """Return a builder of bars, which reads the stream's frames (by channel) and the texts of codes."""

    def make_ladders(self, dropped: int) -> BookLevels:
        """Return empty ladders; predecessors have dropped `dropped` levels."""
