"""Write what the supervisor measures to `telemetry.streams`, `.processes`, `.cores` and `.machine`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdstream.errors import NoSpaceError
from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.rundir import dictionary_path, frame_path
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.streams.spec import Channel, Kind
from mdstream.streams.storage import DTYPE
from mdstream.telemetry.schema import CORES, MACHINE, PROCESSES, STREAMS

log = logging.getLogger(__name__)

_LIMITS = Limits(retention=32_000_000, chunk=4_000_000)


class TelemetryWriter:
    """The one writer of the supervisor's frames."""

    def __init__(self, run: Path) -> None:
        self.lost = 0
        """Rows that found no room: the metric `telemetry_rows_lost`."""
        self._run = run
        self._dictionaries: dict[str, DictionaryWriter] = {}
        self._frames = {
            channel.name: FrameWriter(
                frame_path(run, f"telemetry.{channel.name}"), channel.columns, _LIMITS
            )
            for channel in (STREAMS, PROCESSES, CORES, MACHINE)
        }

    def write(self, channel: Channel, rows: Sequence[dict[str, Any]]) -> None:
        """Append `rows`, values by column name; None where a column may be null. Rows for which there is no
        room are counted in `lost` and dropped.
        """
        try:
            self._write(channel, rows)
        except NoSpaceError as error:
            if not self.lost:
                log.warning("telemetry is not kept: %s", error)
            self.lost += len(rows)

    def _write(self, channel: Channel, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        data = []
        for column in channel.columns:
            values = [row[column.name] for row in rows]
            if column.kind is Kind.CODE:
                values = self._codes(column.dictionary).add(values)
            mask = None
            if column.nullable and None in values:
                mask = np.array([v is not None for v in values])
                values = [0 if v is None else v for v in values]
            data.append(ColumnData(np.array(values, DTYPE[column.kind]), mask))
        self._frames[channel.name].append(data)

    def close(self) -> None:
        for frame in self._frames.values():
            frame.close()

    def _codes(self, name: str) -> DictionaryWriter:
        if name not in self._dictionaries:
            path = dictionary_path(self._run, "telemetry", name)
            self._dictionaries[name] = DictionaryWriter(path)
        return self._dictionaries[name]
