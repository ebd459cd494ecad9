"""Flags that set settings. Name, help and limits come from the field of the setting."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from mdstream.errors import ConfigError
from mdstream.settings import Setting, describe_settings
from mdstream.streams import STREAMS
from mdstream.system.paths import why_unusable

R = TypeVar("R")

Given = Mapping[str, Any]
"""The settings on the command line, by their dotted names."""


def parse_path(text: str) -> Path:
    """Return the path in a flag or argument. An empty one is a usage error."""
    if why := why_unusable(text):
        raise typer.BadParameter(why)
    return Path(text)


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        parser=parse_path,
        help="File of settings; `mdstream settings` prints one.",
    ),
]
Directory = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", parser=parse_path, help="Folder of the runs, if the engine has frames.directory set."
    ),
]
StreamSymbols = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STREAM=A,B",
        help="Symbols of one stream, as stocks=AAPL,MSFT; repeatable. For options, contracts or "
        "underlyings.",
    ),
]
StreamFeed = Annotated[
    list[str] | None,
    typer.Option(metavar="STREAM=FEED", help="Data feed of one stream, as stocks=sip; repeatable."),
]


def run_settings() -> list[Setting]:
    """Return the settings of a run that have their own flag."""
    return [s for s in describe_settings() if s.flag and s.section not in (*STREAMS, "backfill")]


def select(*names: str) -> list[Setting]:
    """Return the settings of a run by their dotted names."""
    return [each for each in describe_settings() if each.name in names]


def add_flags(*settings: Setting) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Add a flag to a command for each of `settings`.

    The command gets the given ones as `given`, a mapping from setting names to texts (or booleans). They
    are checked when the settings are loaded.
    """
    flags = {each.name.replace(".", "_"): each for each in settings}

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        signature = inspect.signature(command, eval_str=True)
        own = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != "given"]

        @functools.wraps(command)
        def run(**values: Any) -> R:
            given = {each.name: values.pop(name) for name, each in flags.items()}
            return command(given={n: v for n, v in given.items() if v is not None}, **values)

        parameters = [*own, *(_parameter(name, each) for name, each in flags.items())]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {}
        return run

    return decorate


def _parameter(name: str, each: Setting) -> inspect.Parameter:
    if each.kind == "yes or no":
        # Only what a file or the environment may switch on needs a flag that switches it off.
        negative = "" if each.default is None else f"/--no-{each.flag.removeprefix('--')}"
        option = typer.Option(each.flag + negative, help=each.help)
        annotation: Any = Annotated[bool | None, option]
    else:
        default = f" Default: {each.write(each.default)}." if each.kind != "list" and each.default else ""
        option = typer.Option(each.flag, metavar=_metavar(each), help=each.help + default)
        annotation = Annotated[str | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(each: Setting) -> str:
    if each.metavar:
        return each.metavar
    if each.kind == "list":
        return "A,B"
    return {"whole number": "N", "number": "NUMBER"}.get(each.kind, each.key.rpartition("_")[2].upper())


def stream_settings(symbols: Iterable[str] | None, feed: Iterable[str] | None) -> dict[str, str]:
    """Return the settings in `--symbols` and `--feed`; symbols of a repeated stream are joined."""
    found: dict[str, str] = {}
    for flag, values in (("symbols", symbols), ("feed", feed)):
        for text in values or ():
            stream, equals, value = text.partition("=")
            if not equals or stream not in STREAMS or not split_names(value):
                names = ", ".join(STREAMS)
                raise ConfigError(f"--{flag} {text}: write STREAM=VALUE with STREAM one of {names}")
            name = f"{stream}.{flag}"
            if name in found and flag == "feed":
                raise ConfigError(f"--feed {text}: given 2 times for {stream}, and it has one data feed")
            found[name] = f"{found[name]},{value}" if name in found else value
    return found


def split_names(text: str | None) -> list[str]:
    """Return the names in a comma-separated text."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
