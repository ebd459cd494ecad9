"""The commands, and what they have in common: how errors end them."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable
from typing import Annotated, ParamSpec, TypeVar

import typer

from mdstream._version import __version__
from mdstream.cli.output import drop, open_standard_streams
from mdstream.errors import Exit, MdstreamError

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="mdstream",
    epilog="Documents: docs/ in the repository; `make docs` builds them as a site.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def with_exit_codes(command: Callable[P, R]) -> Callable[P, R]:
    """Return a command whose errors are one clear line on standard error and the right exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        open_standard_streams()
        try:
            return _flushed(command, *args, **kwargs)
        except MdstreamError as error:
            print(f"mdstream: {error}", file=sys.stderr)
            raise typer.Exit(int(error.exit_code)) from error
        except KeyboardInterrupt:
            print("mdstream: interrupted", file=sys.stderr)
            raise typer.Exit(int(Exit.INTERRUPTED)) from None

    return run


def _flushed(command: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `command` and flush its output. A closed pipe is a good end; a full disk is an error."""
    try:
        try:
            return command(*args, **kwargs)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        drop()
        raise typer.Exit(int(Exit.OK)) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        drop()
        raise MdstreamError(f"the output cannot be written: {error.strerror}") from error


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mdstream {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Receive and store market data from Alpaca on all cores.

    Four streams at once, each in a process of its own, into shared-memory frames that any local program
    reads with Polars. Begin with mdstream doctor, then mdstream run.
    """


def _register() -> None:
    from mdstream.cli import backfill, doctor, export, record, replay, report, run, settings, simulate, tail

    examples: list[tuple[str, Callable[..., None], str]] = [
        ("run", run.run, "mdstream run --streams stocks --symbols stocks=AAPL,MSFT --duration 20"),
        ("settings", settings.settings, "mdstream settings > mdstream.toml"),
        ("doctor", doctor.doctor, "mdstream doctor --offline"),
        ("tail", tail.tail, "mdstream tail stocks.trades --rows 10"),
        ("report", report.report, "mdstream report run.json --out run.html"),
        (
            "backfill",
            backfill.backfill,
            "mdstream backfill stocks.bars --symbols AAPL --start 2026-01-05 --end 2026-01-09 --store s",
        ),
        ("record", record.record, "mdstream record --store market"),
        ("export", export.export, "mdstream export stocks.trades --store market --to trades.parquet"),
        ("replay", replay.replay, "mdstream replay market --start 2026-01-05 --speed 10"),
        ("simulate", simulate.simulate, "mdstream simulate --rate 1000 --fault stocks:drop@10"),
    ]
    for name, command, example in examples:
        text = "\n\n".join(" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n"))
        app.command(name, help=text, epilog=f"Example: {example}")(with_exit_codes(command))


_register()
