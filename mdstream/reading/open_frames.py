"""The readers of one run's frames, opened at first use and shared by all that reads the run here."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection
from pathlib import Path

import polars as pl

from mdstream.errors import NoRunError, UnknownNameError
from mdstream.frames.layout import is_keyed, read_schema
from mdstream.reading.categories import StreamCategories
from mdstream.reading.keyed_frame_reader import KeyedFrameReader, empty_keyed_frame
from mdstream.reading.reader import FrameReader, empty_frame
from mdstream.reading.run_facts import RunFacts
from mdstream.reading.views import View, find_view, list_views_of
from mdstream.streams.datasets import require_name
from mdstream.streams.spec import SYMBOLS

_NAME = re.compile(r"\w+\.\w+")


class OpenFrames:
    """The readers of the run in the folder `path`.

    Hold `lock` while you get a reader and while you use it: it guards the readers and all they have mapped.
    What was opened while the run lasted can still be read after its end.
    """

    # Written by the methods, under `lock`: what was opened so far.
    _readers: dict[str, FrameReader]
    """By the name of the frame's folder."""
    _keyed_readers: dict[str, KeyedFrameReader]
    _categories: dict[str, StreamCategories]
    """By stream."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lock = threading.RLock()
        self._readers = {}
        self._keyed_readers = {}
        self._categories = {}
        self.facts = RunFacts(path, self._list_received)
        self.run: str = self.facts.info["run"]

    @property
    def names(self) -> list[str]:
        """Sorted names of all frames and views that exist; after the end of the run, of those opened."""
        names = {path.name.partition("@")[0] for path in self._folders("*")} or self._opened
        return sorted(names | list_views_of(names))

    @property
    def _opened(self) -> set[str]:
        return {name.partition("@")[0] for name in (*self._readers, *self._keyed_readers)}

    def view(self, name: str) -> tuple[str, View] | None:
        """Return the frame that view `name` reads, and the view; None if the run has no such view."""
        require_name("frame", name)
        found = find_view(name)
        has = found is not None and (found[0] in self._opened or self.facts.schema(found[0]) is not None)
        return found if has else None

    def keyed_reader(self, name: str) -> KeyedFrameReader | None:
        """Return the reader of keyed frame `name`; None if it is not one, or does not exist yet."""
        if not _NAME.fullmatch(require_name("frame", name)):
            return None
        if name not in self._keyed_readers:
            folder = self._path / "frames" / name
            if not (folder / "head").exists() or not is_keyed(read_schema(folder)):
                return None
            self._keyed_readers[name] = KeyedFrameReader(folder, self._categories_of(name))
        return self._keyed_readers[name]

    def is_keyed(self, name: str) -> bool:
        """Whether a frame is keyed, also if it does not exist yet."""
        if self.keyed_reader(name) is not None:
            return True
        schema = self.facts.schema(name) if not self._folders(name) else None
        return schema is not None and is_keyed(schema)

    @property
    def known(self) -> list[str]:
        """Names of all frames and views, those that the run has not created yet among them."""
        declared = self.facts.declared_frames
        return list(dict.fromkeys([*self.names, *declared, *list_views_of(declared)]))

    def parts(self, name: str) -> list[FrameReader]:
        """Return the readers of a frame that exist: one for each feed that writes a part of it.

        Raises `UnknownNameError` if the run has no such frame and will have none, and `NoRunError` if the
        run has ended and the frame was not opened before.
        """
        folders: list[Path] = []
        if _NAME.fullmatch(name):
            folders = self._folders(name) or self._folders(name + "@*")
        if not folders:
            opened = [reader for key, reader in self._readers.items() if key.partition("@")[0] == name]
            if opened:
                return opened
            self._check_exists()
            if self.facts.schema(name) is None:
                raise UnknownNameError.among(self.known, name, f"no frame {name!r} in run {self.run}")
        for folder in folders:
            if folder.name not in self._readers:
                self._readers[folder.name] = FrameReader(folder, self._categories_of(name))
        return [self._readers[folder.name] for folder in folders]

    def read_empty(self, name: str) -> pl.DataFrame:
        """Return no rows of a frame that does not exist yet, with its columns."""
        schema, categories = self.facts.schema(name), self._categories_of(name)
        assert schema is not None, "parts() knows the frame"
        return (
            empty_keyed_frame(schema, categories) if is_keyed(schema) else empty_frame(schema, categories)
        )

    def keep(self) -> None:
        """Map all rows of all frames, so that they can be read after the end of the run."""
        with self.lock:
            for name in {path.name.partition("@")[0] for path in self._folders("*")}:
                reader = self.keyed_reader(name)
                for each in [reader] if reader is not None else self.parts(name):
                    each.map()

    def check_run(self) -> None:
        """Raise `NoRunError` if the run has ended, and no frame was opened before."""
        if not self._opened:
            self._check_exists()

    def _check_exists(self) -> None:
        if not self._path.exists():
            opened = f"; opened were {', '.join(self.names)}" if self._opened else ""
            raise NoRunError(f"run {self.run} has ended, and its frames are gone{opened}")

    def _folders(self, pattern: str) -> list[Path]:
        found = (self._path / "frames").glob(pattern)
        return sorted(path for path in found if (path / "head").exists())

    def _categories_of(self, name: str) -> StreamCategories:
        """Return the categories that all frames of a frame's stream share."""
        stream = name.partition(".")[0]
        if stream not in self._categories:
            self._categories[stream] = StreamCategories(self._path, stream)
        return self._categories[stream]

    def _list_received(self, stream: str) -> Collection[str]:
        """Return the symbols that a stream has received so far."""
        return self._categories_of(stream).open(SYMBOLS, pl.UInt32).codes
