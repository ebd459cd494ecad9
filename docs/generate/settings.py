"""The settings, as `mdstream.settings.describe_settings` describes them."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from docs.generate.markdown import code, plain, table
from mdstream.settings import describe_settings
from mdstream.settings.setting import Setting

_HEADINGS = ("setting", "default", "meaning", "environment variable, flag")


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
    names = filter(None, (setting.variable, setting.flag))
    return (
        code(setting.key),
        _default(setting.write(setting.default)),
        plain(setting.help),
        ", ".join(map(code, names)),
    )


def _default(value: Any) -> str:
    """Return a default; the items of a list apart, so that lines can break."""
    if isinstance(value, tuple):
        return ", ".join(code(_toml(each)) for each in value)
    return code(_toml(value))


def _toml(value: Any) -> str:
    """Return a value as it would be in a TOML file; nothing for an empty table."""
    if isinstance(value, dict):
        items = ", ".join(f"{name} = {_toml(each)}" for name, each in value.items())
        return f"{{ {items} }}" if items else ""
    return json.dumps(value)
