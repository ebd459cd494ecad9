"""The commands, and what they have in common: their errors, their exit codes, their help."""

from __future__ import annotations

import errno
import functools
import importlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Annotated, Any, ParamSpec, TypeVar, cast

import typer
from typer.core import TyperCommand, TyperGroup

from mdstream._version import __version__
from mdstream.cli.output import discard_output, open_standard_streams
from mdstream.errors import ConfigError, Exit, MdstreamError
from mdstream.system.resources import is_too_many_files, too_many_files

P = ParamSpec("P")
R = TypeVar("R")


def with_exit_codes(command: Callable[P, R]) -> Callable[P, R]:
    """Return a command whose errors are one line on standard error, with the right exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        open_standard_streams()
        try:
            _check_folder()
            return _run_and_flush(command, *args, **kwargs)
        except MdstreamError as error:
            print(f"mdstream: {error}", file=sys.stderr)
            raise typer.Exit(int(error.exit_code)) from error
        except OSError as error:
            if not is_too_many_files(error):
                raise
            print(f"mdstream: {too_many_files()}", file=sys.stderr)
            raise typer.Exit(int(Exit.CONFIG)) from error
        except KeyboardInterrupt:
            print("mdstream: interrupted", file=sys.stderr)
            raise typer.Exit(int(Exit.INTERRUPTED)) from None

    return run


def _check_folder() -> None:
    """Raise `ConfigError` if the current folder was removed: no process can be started in it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the current folder does not exist any more: change to another one") from None


def _run_and_flush(command: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `command` and flush its output. A closed pipe is not an error; a full disk is."""
    try:
        try:
            return command(*args, **kwargs)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        raise typer.Exit(int(Exit.OK)) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        discard_output()
        raise MdstreamError(f"the output cannot be written: {error.strerror}") from error


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mdstream {__version__}")
        raise typer.Exit


def top(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Receive and store market data from Alpaca on all cores.

    All streams run at once, each in its own process. Any local program reads their shared-memory frames
    with Polars. Start with mdstream doctor, then mdstream run.
    """


_EXAMPLES = {
    "run": "mdstream run --streams stocks --symbols stocks=AAPL,MSFT --duration 20",
    "settings": "mdstream settings > mdstream.toml",
    "doctor": "mdstream doctor --offline",
    "precompile": "mdstream precompile",
    "tail": "mdstream tail stocks.trades --rows 10",
    "report": "mdstream report run.json --out run.html",
    "backfill": "mdstream backfill stocks.bars --symbols AAPL "
    "--start 2026-01-05 --end 2026-01-09 --store s",
    "record": "mdstream record --store market",
    "export": "mdstream export stocks.trades --store market --to trades.parquet",
    "replay": "mdstream replay market --start 2026-01-05 --speed 10",
    "simulate": "mdstream simulate --rate 1000 --fault stocks:drop@10",
}
"""The commands, in the order of the help. The function `x` of `mdstream/cli/x.py` is the command `x`."""


class _Command(TyperCommand):
    """A command that loses nothing of its command line.

    An option does not take another option as its value: the value was forgotten. An option with one value
    is not given twice: the first value would be lost.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `args`. Raises a usage error for a forgotten value, and for one that would be lost."""
        takes_value: dict[str, bool] = {}
        for each in self.get_params(ctx):
            is_flag = getattr(each, "is_flag", True) or getattr(each, "count", False)
            names = (*each.opts, *each.secondary_opts)
            takes_value |= {name: not is_flag for name in names if name.startswith("--")}
        for name, value in itertools.pairwise(itertools.takewhile("--".__ne__, args)):
            if takes_value.get(name) and value.partition("=")[0] in takes_value:
                raise typer.BadParameter(f"its value is missing; {value} follows", param_hint=name)
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option, count in Counter(given).items():
            is_one = not getattr(option, "is_flag", True) and not getattr(option, "multiple", False)
            if is_one and count > 1:
                text = f"given {count} times; several values are A,B,C"
                raise typer.BadParameter(text, param_hint=option.opts[0])
        return super().parse_args(ctx, args)


class _Commands(Mapping[str, TyperCommand]):
    """The commands by name. Each is imported when it is looked up, so that a run loads no other."""

    def __getitem__(self, name: str) -> TyperCommand:
        if name not in _EXAMPLES:
            raise KeyError(name)
        function = getattr(importlib.import_module(f"mdstream.cli.{name}"), name)
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(name, cls=_Command, help=_help(function), epilog=f"Example: {_EXAMPLES[name]}")(
            with_exit_codes(function)
        )
        command = typer.main.get_command(alone)
        assert isinstance(command, TyperCommand)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_EXAMPLES)

    def __len__(self) -> int:
        return len(_EXAMPLES)


class _Group(TyperGroup):
    """The command `mdstream`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast(MutableMapping[str, Any], _Commands())


def _help(command: Callable[..., None]) -> str:
    """Return the docstring of a command, one line per paragraph: the terminal wraps them."""
    return "\n\n".join(" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n"))


app = typer.Typer(
    name="mdstream",
    cls=_Group,
    epilog="Documentation: docs/ in the repository; `make docs` builds it as a site.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.callback(help=_help(top))(top)
