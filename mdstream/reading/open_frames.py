"""The readers of one run's frames, opened at first use and shared by all that reads the run here."""

from __future__ import annotations

import re
import threading
from pathlib import Path

from mdstream.errors import NoRunError
from mdstream.frames.layout import is_keyed, read_schema
from mdstream.reading.categories import StreamCategories
from mdstream.reading.keyed_frame_reader import KeyedFrameReader
from mdstream.reading.reader import FrameReader
from mdstream.reading.views import View, find_view, find_views

_NAME = re.compile(r"\w+\.\w+")


class OpenFrames:
    """The readers of run `run`, whose folder is `path`.

    Hold `lock` while you get a reader and while you use it: it guards the readers and all they have mapped.
    """

    # Written by the methods, under `lock`: what was opened so far.
    _readers: dict[str, FrameReader]
    """By the name of the frame's folder."""
    _keyed_readers: dict[str, KeyedFrameReader]
    _categories: dict[str, StreamCategories]
    """By stream."""

    def __init__(self, path: Path, run: str) -> None:
        self._path = path
        self._run = run
        self.lock = threading.RLock()
        self._readers = {}
        self._keyed_readers = {}
        self._categories = {}

    @property
    def names(self) -> list[str]:
        """Sorted names of all frames and views that exist."""
        names = {path.name.partition("@")[0] for path in self._folders("*")}
        return sorted(names | find_views(self._path / "frames"))

    def view(self, name: str) -> tuple[str, View] | None:
        """Return the frame that view `name` reads, and the view; None if it is not a view."""
        return find_view(self._path / "frames", name) if _NAME.fullmatch(name) else None

    def keyed(self, name: str) -> KeyedFrameReader | None:
        """Return the reader of keyed frame `name`; None if it is not a keyed frame."""
        if not _NAME.fullmatch(name):
            return None
        if name not in self._keyed_readers:
            folder = self._path / "frames" / name
            if not (folder / "head").exists() or not is_keyed(read_schema(folder)):
                return None
            self._keyed_readers[name] = KeyedFrameReader(folder, self._categories_of(name))
        return self._keyed_readers[name]

    def parts(self, name: str) -> list[FrameReader]:
        """Return the readers of a frame: one for each feed that writes a part of it.

        Raises `KeyError` if there is no such frame, and `NoRunError` once the run has ended.
        """
        folders: list[Path] = []
        if _NAME.fullmatch(name):
            folders = self._folders(name) or self._folders(name + "@*")
        if not folders:
            self.check_run()
            raise KeyError(f"no frame {name!r} in run {self._run}; there are {', '.join(self.names)}")
        for folder in folders:
            if folder.name not in self._readers:
                self._readers[folder.name] = FrameReader(folder, self._categories_of(name))
        return [self._readers[folder.name] for folder in folders]

    def check_run(self) -> None:
        """Raise `NoRunError` if the run has ended and its frames are gone."""
        if not self._path.exists():
            raise NoRunError(f"run {self._run} has ended")

    def _folders(self, pattern: str) -> list[Path]:
        found = (self._path / "frames").glob(pattern)
        return sorted(path for path in found if (path / "head").exists())

    def _categories_of(self, name: str) -> StreamCategories:
        """Return the categories that all frames of a frame's stream share."""
        stream = name.partition(".")[0]
        if stream not in self._categories:
            self._categories[stream] = StreamCategories(self._path, stream)
        return self._categories[stream]
