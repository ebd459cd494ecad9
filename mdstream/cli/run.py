"""`mdstream run`: the engine, with a live view in a terminal and log lines elsewhere."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mdstream.cli.output import drop, output_console
from mdstream.config import Config
from mdstream.errors import ConfigError, Exit
from mdstream.log import line_writer, text_line
from mdstream.settings import load
from mdstream.streams import STREAMS

if TYPE_CHECKING:
    from mdstream.engine.supervisor import Supervisor

_NAMES = ", ".join(STREAMS)


def run(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Settings; docs/settings.md lists all.")
    ] = None,
    streams: Annotated[
        str | None, typer.Option(metavar="A,B", help=f"Streams to run: any of {_NAMES}. Default: all.")
    ] = None,
    symbols: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STREAM=A,B",
            help="Symbols of one stream, as stocks=AAPL,MSFT; repeat for others. Options take "
            "contracts or underlyings.",
        ),
    ] = None,
    feed: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM=FEED", help="Feed of one stream, as stocks=sip; repeatable."),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop by itself after so long.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the report there at the end.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Worker processes a stream; 0 decodes inside the feed. Default: the cores, "
            "shared out over the streams, less one for each feed.",
        ),
    ] = None,
    stream_url: Annotated[
        str | None, typer.Option(metavar="WS_URL", help="Any Alpaca-compatible stream server.")
    ] = None,
    data_url: Annotated[
        str | None, typer.Option(metavar="HTTP_URL", help="Any Alpaca-compatible REST server.")
    ] = None,
    record: Annotated[
        bool | None,
        typer.Option(
            "--record", help="Record the frames of all streams in the store, each row exactly once."
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where: a folder, or s3://bucket/prefix. Default: ./store."),
    ] = None,
    journal: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep the very bytes of every payload there.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
    log_json: Annotated[bool, typer.Option(help="Log lines as JSON.")] = False,
    plain: Annotated[bool, typer.Option(help="Log lines in a terminal too, no live view.")] = False,
) -> None:
    """Run the engine until Ctrl-C (once: drain and stop; twice: stop now) or --duration is over.

    Keys come from APCA_API_KEY_ID and APCA_API_SECRET_KEY. Without keys and without a server named,
    the engine runs on its embedded simulator. Settings: file < MDSTREAM_* environment < flags.

    Exit codes: 0 all well; 1 a stream failed, or not all is recorded; 2 wrong setting; 3 key or plan
    refused; 4 shared memory full; 130 stopped by a second Ctrl-C.
    """
    flags: dict[str, Any] = {
        "streams": _names(streams),
        "duration": duration,
        "report": str(report) if report else None,
        "workers": workers,
        "stream_url": stream_url,
        "data_url": data_url,
        "record": record,
        "journal": journal,
        "store": {"path": store} if store else None,
    }
    flags = {name: value for name, value in flags.items() if value is not None}
    for name, value in _pairs("--symbols", symbols):
        flags.setdefault(name, {})["symbols"] = _names(value)
    for name, value in _pairs("--feed", feed):
        flags.setdefault(name, {})["feed"] = value
    if log_level is not None:
        flags.setdefault("log", {})["level"] = log_level
    if log_json:
        flags.setdefault("log", {})["json"] = True
    with _Stop() as stop:
        raise typer.Exit(int(_run(load(config, flags=flags), plain, stop)))


def _run(config: Config, plain: bool, stop: _Stop) -> Exit:
    # The engine's parts are heavy to import; a wrong flag should be told at once.
    from mdstream.engine import report
    from mdstream.engine.supervisor import Supervisor
    from mdstream.views import summary, utilization
    from mdstream.views.live import LiveView

    console = Console(stderr=True)
    results: list[dict[str, Any]] = []

    def finish(supervisor: Supervisor) -> None:
        results.append(report.build(supervisor))

    if config.report:
        report.check_path(config.report)
    source = "simulator, made-up data" if config.simulated else config.urls()[0]
    if console.is_terminal and not plain and not config.log.json:
        with LiveView(console, source) as view:
            supervisor = Supervisor(config, _above(console), view.show)
            stop.obey(supervisor)
            code = supervisor.run(finish)
    else:
        supervisor = Supervisor(config, line_writer(config.log.json))
        stop.obey(supervisor)
        code = supervisor.run(finish)
    for result in results:
        if config.report:  # first: it does not depend on who reads the output
            report.write(result, config.report)
        try:
            console = output_console()
            summary.show(result, console)
            utilization.show(result["utilization"], console)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read it has seen enough; the code is the run's
            drop()
    return code


def _above(console: Console) -> Any:
    """Log records for a terminal with a live view: what needs attention, printed above it."""

    def write(record: dict[str, Any]) -> None:
        if record["level"] in ("warning", "error", "critical") or "simulator" in record["message"]:
            console.print(text_line(record), style="yellow", markup=False, highlight=False)

    return write


class _Stop:
    """Ctrl-C, SIGTERM, the end of the terminal: the first stops the run, a second one at once.

    Heard from the first moment, before there is a run.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._supervisor: Supervisor | None = None

    def obey(self, supervisor: Supervisor) -> None:
        """Pass on to `supervisor` what was asked so far, and what will be."""
        self._supervisor = supervisor
        for _ in range(self._asked):
            supervisor.stop()

    def _ask(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:  # nobody is there to write to any more
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                if stream.isatty():
                    os.dup2(nowhere, stream.fileno())
        self._asked += 1
        if self._supervisor is not None:
            self._supervisor.stop()

    def __enter__(self) -> _Stop:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [name.strip() for name in text.split(",") if name.strip()]


def _pairs(flag: str, values: list[str] | None) -> list[tuple[str, str]]:
    """`STREAM=VALUE` flags; a stream named twice adds up."""
    pairs: dict[str, str] = {}
    for text in values or ():
        name, equals, value = text.partition("=")
        if not equals or name not in STREAMS or not _names(value):
            raise ConfigError(f"{flag} {text}: write STREAM=VALUE with STREAM one of {_NAMES}")
        pairs[name] = f"{pairs[name]},{value}" if name in pairs and flag == "--symbols" else value
    return list(pairs.items())
