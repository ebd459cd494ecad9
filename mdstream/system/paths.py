"""The rule for paths that people give: an empty one is refused.

Python takes "" for the current folder. So `--store "$STORE"` without such a variable would fill it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from mdstream.errors import ConfigError

P = TypeVar("P", str, Path, str | Path)


def why_unusable(path: str | Path) -> str:
    """Return why `path` names nothing; empty if it names something. Blanks alone count as empty."""
    return "" if str(path).strip() else "the path is empty; name a file or folder ('.': the current folder)"


def require_path(name: str, path: P) -> P:
    """Return `path`, the value of the setting or argument `name`. Raises `ConfigError` if it is empty.

    `Path("")` cannot be distinguished from `Path(".")`.
    """
    if why := why_unusable(path):
        raise ConfigError(f"{name}: {why}")
    return path
