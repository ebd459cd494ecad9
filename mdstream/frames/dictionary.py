"""Dictionaries: the texts that codes stand for; append-only, shared without locks.

A dictionary is a file with one JSON text in each line; the number of the line, from 0, is the code. One
process appends, and each append is a single write. A reader takes the whole lines up to the file's size. So
the file needs neither a lock nor a header, and any other program can read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import orjson

from mdstream.handoff.space import no_space, room_for


class DictionaryReader:
    """The reader of a dictionary: its texts and codes as of the last `refresh`."""

    # Written by `refresh` alone.
    texts: list[str]
    """By code."""
    codes: dict[str, int]
    _descriptor: int
    """-1 until the file exists."""
    _read: int
    """Bytes read so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts = []
        self.codes = {}
        self._descriptor = -1
        self._read = 0

    def refresh(self) -> None:
        """Read what has been appended since the last call."""
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
        size = os.fstat(self._descriptor).st_size
        if size == self._read:
            return
        data = os.pread(self._descriptor, size - self._read, self._read)
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            text = orjson.loads(line)
            self.codes[text] = len(self.texts)
            self.texts.append(text)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class DictionaryWriter(DictionaryReader):
    """The one writer of a dictionary; it continues the file of a killed predecessor."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with room_for(path, 1):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.refresh()
        # A predecessor that was killed during a write may have left half a line.
        os.ftruncate(self._descriptor, self._read)

    def size_with(self, texts: Iterable[str]) -> int:
        """Return how many texts there would be with `texts`, which are distinct."""
        return len(self.codes) + sum(text not in self.codes for text in texts)

    def add(self, texts: Iterable[str]) -> list[int]:
        """Return the codes of `texts`; new texts get the next codes, in order. Raises `NoSpaceError`."""
        new = [text for text in dict.fromkeys(texts) if text not in self.codes]
        if new:
            data = b"".join(orjson.dumps(text) + b"\n" for text in new)
            with room_for(self.path, len(data)):
                written = os.write(self._descriptor, data)
            if written < len(data):
                os.ftruncate(self._descriptor, self._read)
                raise no_space(self.path, len(data))
            self.refresh()
        return [self.codes[text] for text in texts]
