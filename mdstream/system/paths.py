"""The rules for paths and stores that people give: an empty path is refused, and so is an address.

Python takes "" for the current folder. So `--store "$STORE"` without such a variable would fill it. And it
takes `s3:/bucket` for the folder `bucket` in a folder `s3:`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeVar

from mdstream.errors import ConfigError

P = TypeVar("P", str, Path, str | Path)

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/")
_OBJECT_STORE = re.compile(rf"{_ADDRESS.pattern}/\S+")


def why_unusable(path: object) -> str:
    """Return why `path` names no file or folder of this machine; empty if it does.

    Blanks alone count as empty.
    """
    if not isinstance(path, str | os.PathLike):
        return f"{path!r} is not a path"
    if not str(path).strip():
        return "the path is empty; name a file or folder ('.': the current folder)"
    if _ADDRESS.match(str(path)):
        where = "name a file or folder of this machine (only a recorder fills an object store)"
        return f"{str(path)!r} is an address; {where}"
    return ""


def why_no_store(store: object) -> str:
    """Return why `store` is neither a folder nor the address of an object store; empty if it is.

    A `Path` cannot be an address: it drops a slash.
    """
    if isinstance(store, str) and _OBJECT_STORE.fullmatch(store):
        return ""
    if _ADDRESS.match(str(store)):
        return (
            f"{str(store)!r} is not the address of an object store; write s3://bucket/prefix, as a string"
        )
    return why_unusable(store)


def require_path(name: str, path: P) -> P:
    """Return `path`, the value of the setting or argument `name`. Raises `ConfigError` if it is unusable.

    `Path("")` cannot be distinguished from `Path(".")`.
    """
    if why := why_unusable(path):
        raise ConfigError(f"{name}: {why}")
    return path


def require_store(name: str, store: P) -> P:
    """Return `store`, the value of the setting or argument `name`. Raises `ConfigError` if it is none."""
    if why := why_no_store(store):
        raise ConfigError(f"{name}: {why}")
    return store
