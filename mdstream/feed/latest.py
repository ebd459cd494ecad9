"""The last values of each symbol: `<stream>.latest`, updated from the rows that workers selected.

For each batch a worker reports which rows are the newest of their symbol (`workers.aggregation.latest`).
The aspects in the stream's declaration say which columns of the frame they update. An aspect is replaced as
a whole, unless the frame has a newer one. If both have the same time, the later batch wins. A time too far
ahead of its receipt (`MOST_AHEAD_NS`) counts as older than all others. A batch that is committed twice
changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdstream.frames.direct_path import AspectMoves
from mdstream.frames.keyed_frame import KeyedFrameWriter, Rows
from mdstream.frames.share import Share
from mdstream.handoff.columns import ColumnData, take_rows
from mdstream.streams.spec import STATE, Channel, StreamSpec


class Latest:
    """The last values of one stream. Used only in the feed's process."""

    def __init__(self, folder: Path, spec: StreamSpec, share: Share) -> None:
        channel = spec.latest_channel
        at = channel.at
        self.frame = KeyedFrameWriter(folder, channel.columns, share)
        self.aspects: dict[str, list[AspectMoves]] = {}
        for aspect in spec.latest:
            for name in filter(None, (aspect.channel, STATE)):
                if not (sources := aspect.sources(spec.by_name[name])):
                    continue
                places = [at[column.name] for column in aspect.columns]
                moved = list(zip(places, sources, strict=True))
                order = (at[aspect.time], at[aspect.recv]) if aspect.time else None
                self.aspects.setdefault(name, []).append(AspectMoves(moved, order))

    def update(self, channel: Channel, columns: Sequence[ColumnData], newest: Rows) -> None:
        """Take the rows `newest` of a channel, at most one for each symbol. Raises `NoSpaceError`."""
        rows = columns[0].values[newest].astype(np.int64)
        for moved, order in self.aspects[channel.name]:
            data = [(to, take_rows(columns[source], newest)) for to, source in moved]
            self.frame.update(rows, data, order)

    @property
    def untracked(self) -> int:
        """Updates of symbols for which the keyed frame has no room."""
        return self.frame.untracked

    def close(self) -> None:
        self.frame.close()
