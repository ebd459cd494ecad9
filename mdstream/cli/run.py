"""`mdstream run`: the engine, with a live view in a terminal, or log lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from mdstream.cli.flags import (
    ConfigFile,
    Given,
    StreamFeed,
    StreamSymbols,
    add_flags,
    run_settings,
    stream_settings,
)
from mdstream.cli.output import discard_output, output_console
from mdstream.config import Config
from mdstream.errors import Exit
from mdstream.log import line_writer, text_line
from mdstream.settings import load

if TYPE_CHECKING:
    from mdstream.engine.supervisor import Supervisor
    from mdstream.views.terminal import LiveView


@add_flags(*run_settings())
def run(
    given: Given,
    config: ConfigFile = None,
    symbols: StreamSymbols = None,
    feed: StreamFeed = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print log lines instead of the live view.")
    ] = False,
) -> None:
    """Run the engine until Ctrl-C (once: drain and stop; twice: stop now) or until --duration is reached.

    Keys come from APCA_API_KEY_ID and APCA_API_SECRET_KEY. Without keys and without a server, the engine
    runs on its embedded simulator. Settings: file < MDSTREAM_* environment < flags.

    Exit codes: 0 all well; 1 a stream failed, or recording or journal are incomplete; 2 wrong setting;
    3 key or plan refused; 4 shared memory full; 130 stopped by a second Ctrl-C.
    """
    flags = {**given, **stream_settings(symbols, feed)}
    with _Stop() as stop:
        raise typer.Exit(int(_run(load(config, flags=flags), plain, stop)))


def _run(config: Config, plain: bool, stop: _Stop) -> Exit:
    # The engine's parts take long to import; a wrong flag should be reported at once.
    from mdstream.pool import early, ipc_names

    ipc_names.claim()
    with contextlib.suppress(OSError):  # reported when the feeds are started
        early.load_for_feeds()
    from mdstream.engine import report_file
    from mdstream.engine.embedded import HOW_TO_GO_LIVE
    from mdstream.engine.supervisor import Supervisor

    console = Console(stderr=True)
    results: list[dict[str, Any]] = []

    def finish(supervisor: Supervisor) -> None:
        from mdstream.engine import report  # it loads Polars: 25 MB that a run without a view does not need

        results.append(report.build(supervisor))

    if config.report:
        report_file.check_path(config.report)
    source = "simulator, made-up data" if config.simulated else config.urls()[0]
    if console.is_terminal and not plain and not config.log.json:
        from mdstream.views.terminal import LiveView

        with LiveView(console, source) as view:
            supervisor = Supervisor(
                config, warning_writer(view.note), lambda run: show_live(view, run), view.report
            )
            stop.attach(supervisor)
            code = supervisor.run(finish)
        if config.simulated:
            console.print(HOW_TO_GO_LIVE, style="yellow", highlight=False)
    else:
        supervisor = Supervisor(config, line_writer(config.log.json))
        stop.attach(supervisor)
        code = supervisor.run(finish)
    for result in results:
        _show(result, config.report)
    return code


def _show(result: dict[str, Any], file: str) -> None:
    """Write the report to `file`, if one is named, and print it."""
    from mdstream.engine import report_file
    from mdstream.views import summary, utilization

    if file:  # first, because printing may fail
        report_file.write(result, file)
    try:
        console = output_console()
        hint = () if result["removed"] else (Text(_hint(file), style="dim"),)
        used = result["utilization"]
        summary.show(result, console, ["", *(utilization.draw_brief(used) if used else ()), *hint])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone; the exit code is still that of the run
        discard_output()


def _hint(file: str) -> str:
    """Return how to see the rest of the report."""
    if file:
        return f"details: mdstream report {file}"
    return "details: run with --report run.json, then mdstream report run.json"


def show_live(view: LiveView, run: Supervisor) -> None:
    """Draw a run, unless somebody has removed its folder: then there is nothing to draw."""
    if run.removed is None:
        view.show(run.path, run.compiling)


def warning_writer(note: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    """Return a writer of log records that passes warnings and errors to `note`, as lines."""

    def write(record: dict[str, Any]) -> None:
        if record["level"] in ("warning", "error", "critical"):
            note(text_line(record))

    return write


class _Stop:
    """Handles Ctrl-C, SIGTERM and the end of the terminal: one stops the run, a second one at once.

    Signals that come before there is a run are passed on to it.
    """

    # Written by the signal handler and `attach`.
    _count: int
    _supervisor: Supervisor | None

    def __init__(self) -> None:
        self._count = 0
        self._supervisor = None

    def attach(self, supervisor: Supervisor) -> None:
        """Pass on to `supervisor` the signals that have come and those that will come."""
        self._supervisor = supervisor
        for _ in range(self._count):
            supervisor.stop()

    def _handle(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:  # the terminal is gone
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                if stream.isatty():
                    os.dup2(nowhere, stream.fileno())
        self._count += 1
        if self._supervisor is not None:
            self._supervisor.stop()

    def __enter__(self) -> _Stop:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
