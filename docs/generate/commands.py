"""The commands, from the typer application."""

from __future__ import annotations

import re
from typing import Any

import typer

from docs.generate.markdown import code, plain, table
from mdstream.cli.app import app

_MARKUP = re.compile(r"\\\[")


def render() -> str:
    """Return a section for each command: its help, arguments and flags.

    Raises `ValueError` for a command, argument or flag without a description.
    """
    group: Any = typer.main.get_command(app)
    return "\n".join(_section(name, command) for name, command in group.commands.items())


def _section(name: str, command: Any) -> str:
    if not command.help:
        raise ValueError(f"mdstream {name} has no description")
    parts = [f"## mdstream {name}\n", _text(command.help)]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join(["mdstream", name, *(_argument(p) for p in arguments), "[FLAGS]"])
    parts.append(f"```text\n{usage}\n```\n")
    if arguments:
        meanings = [(code(_argument(p)), _help(name, p)) for p in arguments]
        parts.append(table(("argument", "meaning"), meanings))
    rows = [(_flag(p), _help(name, p), _default(p)) for p in options]
    parts.append(table(("flag", "meaning", "default"), rows))
    return "\n".join(parts)


def _argument(parameter: Any) -> str:
    shown = parameter.metavar or parameter.name.upper()
    return shown if parameter.required else f"[{shown}]"


def _flag(parameter: Any) -> str:
    names = ", ".join(code(option) for option in (*parameter.opts, *parameter.secondary_opts))
    if parameter.is_flag:
        return names
    return names + code(parameter.metavar).join((" ", " (repeatable)" if parameter.multiple else ""))


def _help(command: str, parameter: Any) -> str:
    if not parameter.help:
        raise ValueError(f"mdstream {command}: {parameter.name} has no description")
    required = " **Required.**" if parameter.required and parameter.param_type_name == "option" else ""
    return plain(_MARKUP.sub("[", parameter.help)) + required


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value == "" or callable(value) or parameter.required:
        return ""
    if parameter.is_flag:
        return "on" if value else ""
    return code(str(value))


def _text(text: str) -> str:
    """Return a help text with its paragraphs; single line breaks are the terminal's."""
    paragraphs = [plain(" ".join(part.split())) for part in text.split("\n\n")]
    return "\n\n".join(paragraphs) + "\n"
