"""What was last of each symbol: `<stream>.latest`, kept up to date from what workers picked.

Of each batch a worker tells which rows are the newest of their symbol (`workers.aggregation.latest`).
Which columns of the table they bring stands in the stream's declaration: its aspects. An aspect is
replaced as a whole, unless what the table has of it is newer; so the order of batches decides between two
of the same time, and a batch that is committed twice changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdstream.frames.share import Share
from mdstream.frames.table import Rows, TableWriter
from mdstream.handoff.columns import ColumnData, picked
from mdstream.streams.spec import STATE, Channel, StreamSpec

_Bringing = tuple[list[tuple[int, int]], int | None]
"""Of one aspect: column of the table ← column of the channel; and the table's column of its time, if it
has one of its own."""


class Latest:
    """The table of one stream. Lives in the feed's process alone."""

    def __init__(self, folder: Path, spec: StreamSpec, share: Share) -> None:
        table = spec.latest_channel
        at = table.at
        self._table = TableWriter(folder, table.columns, share)
        self._bringing: dict[str, list[_Bringing]] = {}
        for aspect in spec.latest:
            for name in filter(None, (aspect.channel, STATE)):
                if not (sources := aspect.sources(spec.by_name[name])):
                    continue
                places = [at[column.name] for column in aspect.columns]
                moved = list(zip(places, sources, strict=True))
                self._bringing.setdefault(name, []).append((moved, at.get(aspect.time)))

    def update(self, channel: Channel, columns: Sequence[ColumnData], newest: Rows) -> None:
        """Take in some rows of a channel, one a symbol at most. Raises `NoSpaceError` as frames do."""
        rows = columns[0].values[newest].astype(np.int64)
        for moved, time in self._bringing[channel.name]:
            data = [(to, picked(columns[source], newest)) for to, source in moved]
            self._table.update(rows, data, time)

    def close(self) -> None:
        self._table.close()
