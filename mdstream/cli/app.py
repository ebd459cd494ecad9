"""The commands, and what they have in common: how errors end them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from mdstream.errors import Exit, MdstreamError

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="mdstream",
    help="Market data from Alpaca on all cores: four streams at once, into shared-memory frames.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def told(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose errors are one clear line on standard error and the right exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except MdstreamError as error:
            print(f"mdstream: {error}", file=sys.stderr)
            raise typer.Exit(int(error.exit_code)) from error
        except KeyboardInterrupt:
            print("mdstream: interrupted", file=sys.stderr)
            raise typer.Exit(int(Exit.INTERRUPTED)) from None

    return run


def _register() -> None:
    from mdstream.cli import doctor, run, simulate, tail

    app.command("run")(told(run.run))
    app.command("simulate")(told(simulate.simulate))
    app.command("tail")(told(tail.tail))
    app.command("doctor")(told(doctor.doctor))


_register()
