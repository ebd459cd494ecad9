"""Checks of folders that settings name, before anything is written to them."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from mdstream.errors import ConfigError
from mdstream.store.objects import check_object_store

_REFUSED = re.compile(r"[%=\\\[\]^|\x00-\x1f\x7f\ud800-\udfff]")
"""Characters with which delta-rs 1.6 looks for a table in another folder, or ends with a panic; the one
with which Polars takes the name of a folder for a column; and bytes that are not UTF-8.
"""


def check_store(path: str) -> None:
    """Raise `ConfigError` if a folder cannot hold a store, and `StoreError` if an object store cannot."""
    if is_remote(path):
        check_object_store(path)
    else:
        check_name(path)
        check_folder("store", path)


def is_remote(uri: str) -> bool:
    """Return whether a store is in an object store."""
    return "://" in uri


def check_name(uri: str) -> None:
    """Raise `ConfigError` if the name of a local folder has a character that Delta tables cannot have."""
    if not is_remote(uri) and (found := _REFUSED.search(path := str(Path(uri).resolve()))):
        raise ConfigError(
            f"store: {path!r} cannot hold Delta tables, because of the character {found[0]!r} in its name. "
            "Use a folder whose name has none of % = \\ [ ] ^ | and no control character"
        )


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
