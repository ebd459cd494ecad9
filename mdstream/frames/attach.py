"""The readers' way in: attach to a running engine, look at its frames, follow what is new."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from mdstream.errors import NoRunError
from mdstream.frames import rundir
from mdstream.frames.reader import Categories, FrameReader


def attach(run: str | None = None, directory: str | Path | None = None) -> Attachment:
    """Attach to the running engine, or to run `run`; any process of the same user may.

    `directory` is where the engine keeps its runs, if it was told to (`frames.directory`).
    Raises `NoRunError` where nothing runs.
    """
    return Attachment(rundir.find(run, Path(directory) if directory else None))


class Attachment:
    """A reader's view of one run. It never blocks the engine, however slow or dead the reader is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: dict[str, Any] = json.loads((path / "run.json").read_text())
        self.run: str = self.info["run"]
        self._readers: dict[str, FrameReader] = {}
        self._categories: dict[str, dict[str, Categories]] = {}

    def __repr__(self) -> str:
        return f"<mdstream run {self.run}: {', '.join(self.frames)}>"

    @property
    def alive(self) -> bool:
        """Whether the engine still runs."""
        return rundir.is_alive(self.path)

    @property
    def frames(self) -> list[str]:
        """Names of all frames: `<stream>.<channel>`, and the engine's own `telemetry.*`."""
        return sorted({path.name.partition("@")[0] for path in self._folders("*")})

    def rows(self, name: str) -> int:
        """Rows ever published in frame `name`, those that retention has dropped included."""
        return sum(reader.rows for reader in self.parts(name))

    def frame(self, name: str) -> pl.DataFrame:
        """Frame `name` as it stands now, as a zero-copy DataFrame.

        Rows that come later are not in it: call again, which costs microseconds. Times are
        `Datetime("ns", "UTC")`, prices Float64, symbols and codes categoricals. Memory that the
        engine drops later stays readable as long as the DataFrame lives.
        """
        pieces = [_labelled(reader, reader.read()[1]) for reader in self.parts(name)]
        return pieces[0] if len(pieces) == 1 else pl.concat(pieces, rechunk=False)

    def tail(self, name: str, *, from_start: bool = False, poll_s: float = 0.005) -> Tail:
        """Follow frame `name`: iterate, with `for` or `async for`, over DataFrames of new rows.

        Begins with the next row, or with the oldest that is kept if `from_start`. Ends when the
        engine does. A reader too slow for the frame's retention skips what was dropped; the
        tail's `missed` counts those rows.
        """
        return Tail(self, name, from_start, poll_s)

    def _folders(self, pattern: str) -> list[Path]:
        found = (self.path / "frames").glob(pattern)
        return sorted(path for path in found if (path / "head").exists())

    def parts(self, name: str) -> list[FrameReader]:
        """The readers of a frame: one, or one for each process that writes a part of it."""
        folders = self._folders(name) or self._folders(name + "@*")
        if not folders:
            if not self.path.exists():
                raise NoRunError(f"run {self.run} has ended")
            raise KeyError(
                f"no frame {name!r} in run {self.run}; there are {', '.join(self.frames)}"
            )
        for folder in folders:
            if folder.name not in self._readers:
                stream = folder.name.partition(".")[0]
                categories = self._categories.setdefault(stream, {})
                self._readers[folder.name] = FrameReader(folder, categories)
        return [self._readers[folder.name] for folder in folders]


class Tail:
    """New rows of a frame as they come. `missed` counts rows that were dropped before being read."""

    _CHECK_S = 0.5

    # The mutable state: the next row of each part of the frame; when it was last looked whether there
    # are more parts, and whether the engine lives.

    def __init__(self, attachment: Attachment, name: str, from_start: bool, poll_s: float) -> None:
        self.missed = 0
        self._attachment = attachment
        self._name = name
        self._poll_s = poll_s
        parts = attachment.parts(name)
        self._next = {part: part.first_row if from_start else part.rows for part in parts}
        self._many = any("@" in part.name for part in parts)
        self._looked = self._checked = time.monotonic()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        while True:
            new = self.poll()
            if new is not None:
                yield new
            elif self._ended():
                return
            else:
                time.sleep(self._poll_s)

    async def __aiter__(self) -> AsyncIterator[pl.DataFrame]:
        while True:
            new = self.poll()
            if new is not None:
                yield new
            elif self._ended():
                return
            else:
                await asyncio.sleep(self._poll_s)

    def poll(self) -> pl.DataFrame | None:
        """What is new since the last call, without waiting; None if nothing is."""
        self._look_for_parts()
        pieces = []
        for part, row in self._next.items():
            if part.rows > row:
                first, frame = part.read(row)
                self.missed += first - row
                self._next[part] = first + frame.height
                if frame.height:
                    pieces.append(_labelled(part, frame))
        return pl.concat(pieces, rechunk=False) if pieces else None

    def _look_for_parts(self) -> None:
        """A frame that many processes write has a part more when one more has begun."""
        now = time.monotonic()
        if self._many and now - self._looked >= self._CHECK_S:
            self._looked = now
            with contextlib.suppress(
                NoRunError, KeyError
            ):  # ended: what is mapped can still be read
                for part in self._attachment.parts(self._name):
                    self._next.setdefault(part, 0)

    def _ended(self) -> bool:
        if any(part.rows > row for part, row in self._next.items()):
            return False
        if all(part.head.closed for part in self._next):
            return True
        now = time.monotonic()
        if now - self._checked < self._CHECK_S:
            return False
        self._checked = now
        return not self._attachment.alive


def _labelled(reader: FrameReader, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of one part of a frame, told apart by the stream they come from."""
    _, _, stream = reader.name.partition("@")
    if not stream:
        return frame
    label = pl.lit(stream).cast(pl.Categorical).alias("stream")
    return frame.select(label, pl.all())
