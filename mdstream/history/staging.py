"""Staging: pages that are fetched and not yet in the table; one folder per shard, one file per page."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa

from mdstream.history.ledger import Progress


class Staging:
    """The staged pages of one store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, progress: Progress, page: int) -> Path:
        """Return the file for the rows of a page; a page without rows has none."""
        return self._shard(progress) / f"{page:06d}.arrow"

    def files(self, progress: Progress) -> list[Path]:
        """Return the staged files of a shard, in the order of their rows."""
        paths = (self.path(progress, page) for page in range(progress.pages))
        return [path for path in paths if path.exists()]

    def has_all(self, progress: Progress) -> bool:
        """Return whether all rows are there that the ledger counts: a power cut may have lost some."""
        rows = 0
        for path in self.files(progress):
            try:
                rows += pa.ipc.open_file(pa.memory_map(str(path))).read_all().num_rows
            except pa.ArrowInvalid:
                return False
        return rows == progress.rows

    def drop(self, *shards: Progress) -> None:
        """Remove the pages of shards."""
        for progress in shards:
            shutil.rmtree(self._shard(progress), ignore_errors=True)

    def keep_only(self, shards: Collection[int]) -> None:
        """Remove the pages of all other shards."""
        needed = {str(number) for number in shards}
        for folder in self._folder.iterdir() if self._folder.exists() else ():
            if folder.name not in needed:
                shutil.rmtree(folder)

    def _shard(self, progress: Progress) -> Path:
        return self._folder / str(progress.id)
