"""Checks of folders that settings name, before anything is written to them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mdstream.errors import ConfigError
from mdstream.store.objects import check_object_store


def check_store(path: str) -> None:
    """Raise `ConfigError` if a folder cannot hold a store, and `StoreError` if an object store cannot."""
    if "://" in path:
        check_object_store(path)
    else:
        check_folder("store", path)


def check_folder(setting: str, path: str) -> None:
    """Raise `ConfigError` if `path`, the value of `setting`, cannot be made or written."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{setting}: cannot write in {path}: {error.strerror}") from error
    if why := why_unwritable(Path(path)):
        raise ConfigError(f"{setting}: {why}")


def why_unwritable(folder: Path) -> str:
    """Return why no file can be made in an existing folder; empty if one can.

    It tries: permissions alone say nothing about a read-only disk, or about what root may write.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"cannot write in {folder}: {error.strerror}"
