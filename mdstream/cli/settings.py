"""`mdstream settings`: every setting in effect, its meaning, and the source of its value."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
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
from mdstream.config import Config
from mdstream.settings import Setting, describe_settings, load_with_origins
from mdstream.settings.description import value_of

_WIDTH = 100
_HEAD = """\
# The settings of mdstream in effect. Keep the lines that you change in a file, and start with
#     mdstream run --config mdstream.toml
# The environment wins over the file ({example}), flags win over both.
"""


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
    print(as_toml(effective, origins, changed), end="")


def as_toml(config: Config, origins: Mapping[str, str], changed: bool = False) -> str:
    """Return the settings of `config` as a TOML file with comments.

    `origins` names the source of each setting that is not a default, by its dotted name. With `changed`,
    only these are included.
    """
    lines = [_HEAD.format(example="MDSTREAM_FETCH__INTERVAL_S=30")]
    section = ""
    for each in describe_settings():
        came_from = _origin(each, origins)
        if changed and not came_from:
            continue
        if each.section != section:
            section = each.section
            lines += [f"# [{section}]" if each.secret else f"[{section}]", ""]
        lines += [*_entry(each, value_of(config, each.name), came_from), ""]
    return "\n".join(lines)


def _entry(each: Setting, value: Any, came_from: str) -> Iterator[str]:
    """Yield the lines of one setting."""
    yield from textwrap.wrap(each.help, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    if each.example and not value:
        yield f"# Example: {each.key} = {each.example}"
    source = f"{came_from}; default: {_text(each.write(each.default))}" if came_from else "default"
    if each.secret:
        state = f"set, not shown ({came_from})" if value else f"not set (variable {each.variable})"
        yield f"# {each.key}: {state}"
    else:
        yield f"{each.key} = {_text(each.write(value))}  # {source}"


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
