"""`mdstream settings`: every setting in effect, its meaning, and the source of its value."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from mdstream.cli.flags import (
    ConfigFile,
    Given,
    StreamFeed,
    StreamSymbols,
    add_flags,
    run_settings,
    stream_settings,
)
from mdstream.cli.output import output_width
from mdstream.config import Config
from mdstream.settings import Setting, describe_settings, load_with_origins
from mdstream.settings.description import value_of

_WIDEST = 100
"""Columns that are used of a wider terminal: longer lines are hard to read."""
_INDENT = "    "
_HEAD = (
    "The settings of mdstream in effect. Keep the lines that you change in a file, and start with",
    "    mdstream run --config mdstream.toml",
    "The environment (MDSTREAM_FETCH__INTERVAL_S=30) wins over the file, and flags win over both.",
)


@add_flags(*run_settings())
def settings(
    given: Given,
    config: ConfigFile = None,
    symbols: StreamSymbols = None,
    feed: StreamFeed = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Print only settings that are not defaults.")
    ] = False,
) -> None:
    """Print every setting as TOML: its meaning, its limits, its value, and the source of the value.

    Uses the file, the environment and the flags as mdstream run does, and checks them. Keys are never
    shown.
    """
    effective, origins = load_with_origins(config, flags={**given, **stream_settings(symbols, feed)})
    print(as_toml(effective, origins, changed, min(output_width(), _WIDEST)), end="")


def as_toml(config: Config, origins: Mapping[str, str], changed: bool = False, width: int = _WIDEST) -> str:
    """Return the settings of `config` as a TOML file with comments, in lines of `width` columns.

    `origins` names the source of each setting that is not a default, by its dotted name. With `changed`,
    only these are included. A line is longer only if a single text is, such as a path.
    """
    lines = [*(line for text in _HEAD for line in _comment(text, width)), ""]
    section = ""
    for each in describe_settings():
        came_from = _origin(each, origins)
        if changed and not came_from:
            continue
        if each.section != section:
            section = each.section
            lines += [f"# [{section}]" if each.secret else f"[{section}]", ""]
        lines += [*_entry(each, value_of(config, each.name), came_from, width), ""]
    return "\n".join(lines)


def _entry(each: Setting, value: Any, came_from: str, width: int) -> Iterator[str]:
    """Yield the lines of one setting."""
    yield from _comment(each.help, width)
    if each.example and not value:
        yield from _comment(f"Example: {each.key} = {each.example}", width)
    source = f"{came_from}; default: {_text(each.write(each.default))}" if came_from else "default"
    if each.secret:
        state = f"set, not shown ({came_from})" if value else f"not set (variable {each.variable})"
        yield from _comment(f"{each.key}: {state}", width)
    elif len(line := f"{each.key} = {_text(each.write(value))}  # {source}") <= width:
        yield line
    else:
        yield from _comment(f"Source: {source}", width)
        yield from _assignment(each.key, each.write(value), width)


def _comment(text: str, width: int) -> list[str]:
    """Return a text as lines of comments; a word is never divided."""
    lines = textwrap.wrap(text, max(1, width - 2), break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in lines]


def _assignment(key: str, value: Any, width: int) -> Iterator[str]:
    """Yield the lines that set a value; a list may have several."""
    line = f"{key} = {_text(value)}"
    if len(line) <= width or not isinstance(value, list | tuple):
        yield line
        return
    yield f"{key} = ["
    yield from _fill([f"{_text(item)}," for item in value], width)
    yield "]"


def _fill(items: Sequence[str], width: int) -> Iterator[str]:
    """Yield indented lines of as many items as fit; an item is never divided."""
    line = _INDENT
    for item in items:
        if line != _INDENT and len(line) + 1 + len(item) > width:
            yield line
            line = _INDENT
        line += item if line == _INDENT else f" {item}"
    yield line


def _origin(each: Setting, origins: Mapping[str, str]) -> str:
    """Return the source of a setting's value; empty if it is the default."""
    found = {origin for name, origin in origins.items() if f"{name}.".startswith(f"{each.name}.")}
    named = {"environment": f"environment, {each.variable}", "command line": f"command line, {each.flag}"}
    return " and ".join(named.get(origin, origin) for origin in sorted(found))


def _text(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_text(each)}" for name, each in value.items()) + "}"
    return json.dumps(value)  # texts, lists, numbers and booleans are the same in both
