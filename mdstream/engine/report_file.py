"""The JSON file of a run's report. Naming it does not load Polars, which the report needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

from mdstream.errors import ConfigError
from mdstream.store.folders import why_unwritable
from mdstream.system.shared_places import open_named, why_not_ours


def check_path(path: str | Path) -> None:
    """Raise `ConfigError` if no report can be written to `path`, before a run rather than after it."""
    path = Path(path).absolute()
    if why := why_not_ours(path):
        raise ConfigError(f"report: {why}")
    if not path.parent.is_dir():
        raise ConfigError(f"report: no folder {path.parent}")
    if path.is_dir():
        raise ConfigError(f"report: {path} is a folder; name a file in it")
    if path.exists():
        why = "" if os.access(path, os.W_OK) else f"{path} cannot be written"
    else:
        why = why_unwritable(path.parent)
    if why:
        raise ConfigError(f"report: {why}")


def write(report: dict[str, Any], path: str | Path) -> None:
    """Write the report as JSON. Raises `ConfigError` if the file cannot be written."""
    try:
        with open_named(Path(path)) as file:
            file.write(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise ConfigError(f"cannot write the report to {path}: {error.strerror}") from error
