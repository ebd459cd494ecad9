"""The commands, and what they have in common: how errors end them."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from mdstream.cli.output import drop, open_standard_streams
from mdstream.errors import Exit, MdstreamError

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="mdstream",
    help="Market data from Alpaca on all cores: four streams at once, into shared-memory frames.",
    epilog="Documents: docs/ in the repository; `make docs` builds them as a site.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def told(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose errors are one clear line on standard error and the right exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        open_standard_streams()
        try:
            return _to_the_end(command, *args, **kwargs)
        except MdstreamError as error:
            print(f"mdstream: {error}", file=sys.stderr)
            raise typer.Exit(int(error.exit_code)) from error
        except KeyboardInterrupt:
            print("mdstream: interrupted", file=sys.stderr)
            raise typer.Exit(int(Exit.INTERRUPTED)) from None

    return run


def _to_the_end(command: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `command`, output flushed. Who closed the pipe has seen enough; a full disk is an error."""
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


def _register() -> None:
    from mdstream.cli import backfill, doctor, export, record, replay, report, run, simulate, tail

    app.command("run")(told(run.run))
    app.command("simulate")(told(simulate.simulate))
    app.command("backfill")(told(backfill.backfill))
    app.command("record")(told(record.record))
    app.command("replay")(told(replay.replay))
    app.command("export")(told(export.export))
    app.command("tail")(told(tail.tail))
    app.command("report")(told(report.report))
    app.command("doctor")(told(doctor.doctor))


_register()
