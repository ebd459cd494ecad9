"""The settings, as `mdstream.settings.describe_settings` describes them."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from docs.generate.markdown import code, plain, table
from mdstream.settings import describe_settings
from mdstream.settings.setting import Setting

_HEADINGS = ("setting", "default", "meaning", "may be", "environment variable", "flag")


def render() -> str:
    """Return a table for each section of the TOML file.

    Raises `ValueError` for a setting without a description.
    """
    parts = []
    for section, settings in groupby(describe_settings(), key=lambda setting: setting.section):
        parts.append(f"### \\[{section}\\]\n" if section else "### Top level\n")
        parts.append(table(_HEADINGS, map(_row, settings)))
    return "\n".join(parts)


def _row(setting: Setting) -> tuple[str, ...]:
    if not setting.description:
        raise ValueError(f"setting {setting.name} has no description")
    unit = f" In {setting.unit}." if setting.unit else ""
    kind = setting.kind + (f": {setting.limits}" if setting.limits else "")
    return (
        code(setting.key),
        code(_toml(setting.default)),
        plain(setting.description) + unit,
        plain(kind),
        code(setting.variable),
        code(setting.flag),
    )


def _toml(value: Any) -> str:
    """Return a default as it would stand in a TOML file; nothing for an empty one."""
    if isinstance(value, tuple | dict) and not value:
        return ""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + " }"
    return json.dumps(list(value) if isinstance(value, tuple) else value)
