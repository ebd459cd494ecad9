"""`mdstream report`: where the CPU time of a run went, and what limited it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from mdstream.cli.flags import Directory, parse_path
from mdstream.cli.output import output_console
from mdstream.errors import ConfigError


def report(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN.json",
            parser=parse_path,
            help="Report of a run that has ended (from run --report).",
        ),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Report on the running engine, until now.")] = False,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run for --live. Default: the newest.")
    ] = None,
    directory: Directory = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=parse_path,
            help="Also write a page (.html) or a picture (.png). Needs the extra `report`.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Show how busy the cores were, who used them, where batches waited, and what limited the run."""
    if (file is None) == (not live):
        raise ConfigError(
            "report: give either the RUN.json of a run that has ended, or --live for the running engine"
        )
    title, found = _measure(run, directory) if file is None else _read(file)
    with contextlib.nullcontext() if file is None else _blame(file):
        _show(title, found, out, as_json)


def _show(title: str, found: dict[str, Any], out: Path | None, as_json: bool) -> None:
    if out is not None and out.suffix not in (".html", ".png"):
        raise ConfigError(f"report: --out {out}: the name must end with .html or .png")
    if as_json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    else:
        from mdstream.views import utilization

        console = output_console()
        console.print(title, style="dim")
        utilization.show(found, console)
    if out is not None:
        from mdstream.views import charts

        charts.write(found, title, out)
        if not as_json:
            print(f"written to {out}")


def _measure(run: str | None, directory: Path | None) -> tuple[str, dict[str, Any]]:
    from mdstream import utilization
    from mdstream.reading.attach import attach

    attached = attach(run, directory)
    if "telemetry.machine" not in attached.frames or not attached.rows("telemetry.machine"):
        raise ConfigError(f"report: run {attached.run} has no measurements yet; try again in a second")
    return f"run {attached.run}, still running", utilization.build(attached)


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        if file.exists() and not (file.is_file() or file.is_fifo()):  # reading /dev/zero never ends
            raise ConfigError(f"report: {file} is not a file")
        with _blame(file):
            found = orjson.loads(file.read_bytes())
            if found["utilization"] is None:
                raise ConfigError(f"report: {file} has no measurements: {found['removed']}")
            return f"run {found['run']}, started {found['started']}", found["utilization"]
    except OSError as error:
        raise ConfigError(f"report: cannot read {file}: {error.strerror}") from error


@contextlib.contextmanager
def _blame(file: Path) -> Iterator[None]:
    """Raise an error that names `file` for anything that is malformed in it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ConfigError(
            f"report: {file} is not a report of a run, or is damaged; make one with mdstream run --report "
            "RUN.json"
        ) from error
