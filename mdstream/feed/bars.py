"""Bars of one stream: partials joined in order, finished bars appended to their frames.

    partials of a batch ─► codes of new symbols ─► builder (`workers.aggregation.bars`) ─► rows ─► frames

A batch is joined once. Its rows are kept until all are published: if shared memory has no room, the commit
is retried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mdstream.feed.codes import Codes, replace_provisional
from mdstream.frames.bar_builder import Amendments, BarBuilder, Published, TextOf
from mdstream.frames.builders import Builders
from mdstream.frames.frame_columns import FrameColumns
from mdstream.frames.writer import FrameWriter
from mdstream.handoff.columns import PARTIAL, ColumnData, PartialKind, concatenate
from mdstream.streams.spec import SYMBOLS, Kind, StreamSpec
from mdstream.streams.storage import DTYPE, PROVISIONAL
from mdstream.telemetry.state import FeedState

Frames = Mapping[str, FrameWriter]


class BarFrames:
    """The bars of one stream. Used only in the feed's process."""

    # Written only here.
    _joined: int
    """The sequence of the last joined batch."""
    _rows: Published
    """The rows of the last join."""
    _last_rows: Published
    """The rows made at the end of the stream; empty once published."""

    def __init__(
        self, spec: StreamSpec, frames: Frames, state: FeedState, builders: Builders, text: TextOf
    ) -> None:
        assert spec.bar_rules is not None
        self._rules = rules = spec.bar_rules
        self._frames = frames
        self._state = state
        self.late_before, self._unmatched_before = state["bars_late_trades"], state["bars_unmatched"]
        names = (rules.trades, *(channel.name for channel in spec.built_bars))
        columns = {name: FrameColumns(frames[name]) for name in names}
        self.builder: BarBuilder = builders.make_bars(spec, columns, text)
        self._amending = [
            (kind, name)
            for kind, name in (
                (PartialKind.CORRECTION, rules.corrections),
                (PartialKind.CANCEL, rules.cancels),
            )
            if name
        ]
        self._joined = 0
        self._rows = {}
        self._last_rows = {}

    @property
    def is_open(self) -> bool:
        """Whether there are open bars, which may need the clock to close."""
        return self.builder.is_open

    def restore(self, partials: bytes, rows: Mapping[str, int]) -> None:
        """Restore the open bars of a killed predecessor.

        `rows` has the number of committed rows of each frame that bars are made of.
        """
        amendments = {kind: _read_rows(self._frames[name], rows[name]) for kind, name in self._amending}
        self.builder.restore(np.frombuffer(partials, PARTIAL).copy(), rows[self._rules.trades], amendments)

    def join(
        self,
        sequence: int,
        partials: npt.NDArray[np.void],
        codes: Codes,
        rows: Mapping[str, int],
        amendments: Amendments,
    ) -> None:
        """Join the partials of batch `sequence`, and publish due bars.

        Its rows are in their frames; `rows` has the number in each channel. Raises `NoSpaceError`; call it
        again with the same batch then.
        """
        if self._joined != sequence:
            if SYMBOLS in codes:
                base = PROVISIONAL[Kind.SYMBOL]
                partials["symbol"] = replace_provisional(partials["symbol"], codes[SYMBOLS], base)
            trades = self._rules.trades
            before = self._frames[trades].rows - rows.get(trades, 0)
            self._rows = self.builder.join(partials, before, amendments)
            self._joined = sequence
            self._state["bars_late_trades"] = self.late_before + self.builder.late
            self._state["bars_unmatched"] = self._unmatched_before + self.builder.unmatched
        self._publish(self._rows, sequence)

    def finish_joined(
        self, sequence: int, partials: npt.NDArray[np.void], firsts: Sequence[int], trades: int
    ) -> None:
        """Join the rest of batch `sequence`, which has `trades` trades, and publish due bars.

        `firsts` has, for each length of bars, how many of its partials were joined elsewhere. Raises
        `NoSpaceError`; call `join` with the same batch then.
        """
        if any(first < len(partials) for first in firsts):
            self.builder.resume(partials, firsts, self._frames[self._rules.trades].rows - trades)
        self._rows, self._joined = self.builder.drain(), sequence
        self._publish(self._rows, sequence)

    def find_amendments(self, rows: Mapping[str, Sequence[ColumnData]]) -> Amendments:
        """Return the corrections and cancels among a batch's rows."""
        return {kind: rows[name] for kind, name in self._amending if name in rows}

    def mark_lost_batch(self, recv_ns: int) -> None:
        """Note that a batch is missing from the stream here."""
        self.builder.mark_lost_batch(recv_ns)

    def finish(self) -> None:
        """Publish the open bars at the end of the stream. Raises `NoSpaceError`; call it again then."""
        self._last_rows = self._last_rows or self.builder.finish()
        self._publish(self._last_rows, 0)
        self._last_rows = {}

    def _publish(self, rows: Published, sequence: int) -> None:
        for name, columns in rows.items():
            self._frames[name].append(columns, sequence)


def _read_rows(frame: FrameWriter, stop: int) -> list[ColumnData]:
    """Return the rows below `stop`; rows already dropped are missing."""
    columns = FrameColumns(frame)
    pieces = [columns.take(views, np.arange(rows)) for _, rows, views in columns.newest_first(stop)]
    if not pieces:
        return [ColumnData(np.empty(0, DTYPE[column.kind])) for column in frame.columns]
    return [concatenate(each) for each in zip(*reversed(pieces), strict=True)]
