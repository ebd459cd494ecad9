"""The writer of the supervisor's measurements and events: the frames of `telemetry.*`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mdstream.errors import NoSpaceError, RunRemovedError
from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.rundir import dictionary_path, frame_path
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.streams.spec import VARIABLE, Channel, Column, Kind
from mdstream.streams.storage import DTYPE
from mdstream.telemetry.schema import CORES, EVENTS, MACHINE, PROCESSES, STREAMS, SYMBOLS

log = logging.getLogger(__name__)

_LIMITS = Limits(retention=32_000_000, chunk=4_000_000)


class TelemetryWriter:
    """The one writer of the supervisor's frames."""

    def __init__(self, run: Path) -> None:
        self.lost = 0
        """Rows for which there was no room: the metric `telemetry_rows_lost`."""
        self._run = run
        self._dictionaries: dict[str, DictionaryWriter] = {}
        self._frames = {
            channel.name: FrameWriter(
                frame_path(run, f"telemetry.{channel.name}"), channel.columns, _LIMITS
            )
            for channel in (STREAMS, PROCESSES, CORES, MACHINE, EVENTS, SYMBOLS)
        }

    def write(self, channel: Channel, rows: Sequence[dict[str, Any]]) -> None:
        """Append `rows`, values by column name; None where a column may be null.

        Rows for which there is no room are dropped and counted in `lost`.
        """
        try:
            self._write(channel, rows)
        except (NoSpaceError, RunRemovedError) as error:
            if not self.lost:
                log.warning("telemetry rows are dropped: %s", error)
            self.lost += len(rows)

    def _write(self, channel: Channel, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        data = dict(_numbers(channel, rows))
        for column in channel.columns:
            if column.name not in data:
                data[column.name] = self._column(column, [row[column.name] for row in rows])
        self._frames[channel.name].append([data[column.name] for column in channel.columns])

    def _column(self, column: Column, values: list[Any]) -> ColumnData:
        """Return a column of texts, or of codes for texts."""
        mask = None
        if column.nullable and None in values:
            mask = np.array([v is not None for v in values])
        if column.kind in VARIABLE:
            texts = [b"" if v is None else _encode(v, column.kind) for v in values]
            ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
            return ColumnData(ends, mask, np.frombuffer(b"".join(texts), DTYPE[column.kind]))
        return ColumnData(np.array(self._codes(column.dictionary).add(values), DTYPE[column.kind]), mask)

    def close(self) -> None:
        for frame in self._frames.values():
            frame.close()

    def _codes(self, name: str) -> DictionaryWriter:
        if name not in self._dictionaries:
            path = dictionary_path(self._run, "telemetry", name)
            self._dictionaries[name] = DictionaryWriter(path)
        return self._dictionaries[name]


def _numbers(channel: Channel, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ColumnData]]:
    """Yield the columns of numbers by name. One array holds all of a type: one for each costs more."""
    for kind in (Kind.TIME, Kind.INT, Kind.FLOAT):
        names = [column.name for column in channel.columns if column.kind is kind]
        table = [[row[name] for row in rows] for name in names]
        has_null = [None in values for values in table]
        present = np.array([[v is not None for v in values] for values in table])
        filled = np.array([[0 if v is None else v for v in values] for values in table], DTYPE[kind])
        for index, name in enumerate(names):
            yield name, ColumnData(filled[index], present[index] if has_null[index] else None)


def _encode(value: Any, kind: Kind) -> bytes:
    return orjson.dumps(value) if kind is Kind.JSON else str(value).encode()
