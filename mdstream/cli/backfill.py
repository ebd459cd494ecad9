"""`mdstream backfill`: history into a store on disk, with a bar that shows how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from mdstream.cli import backfill_view as view
from mdstream.cli.flags import ConfigFile, Given, select, split_names, takes
from mdstream.errors import ConfigError, Exit, MdstreamError
from mdstream.history.request import HistoryOptions
from mdstream.settings import describe, load

if TYPE_CHECKING:
    from mdstream.config import HistoryConfig
    from mdstream.history.backfill import Backfill, Status
    from mdstream.history.request import Request

_OPTIONS = describe(HistoryOptions)
_SETTINGS = select("backfill.concurrency", "backfill.workers", "data_url")


class Wanted(NamedTuple):
    """What the command line asks for."""

    dataset: str
    symbols: list[str]
    start: str
    end: str
    store: Path


@takes(*_OPTIONS, *_SETTINGS)
def backfill(
    given: Given,
    dataset: Annotated[
        str,
        typer.Argument(
            help="What to fetch: stocks.trades, .quotes or .bars, options.trades or .bars, "
            "crypto.trades, .quotes or .bars, news."
        ),
    ],
    start: Annotated[str, typer.Option(metavar="TIME", help="First moment: 2026-01-05, or with a time.")],
    end: Annotated[
        str, typer.Option(metavar="TIME", help="Moment past the last; a date includes that day.")
    ],
    store: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the store; made if need be.")],
    symbols: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Symbols, or patterns, as 'A*'. Of options: contracts, as 'AAPL2612*C*'. News needs none.",
        ),
    ] = None,
    symbols_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="More symbols: one a line, # begins a comment.")
    ] = None,
    config: ConfigFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take; fetch nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as a JSON object.")] = False,
) -> None:
    """Fetch a range of history into a store, as far as it is not there yet.

    Ctrl-C ends it, and so does anything else: run the same again and it resumes where it was. Keys come
    from APCA_API_KEY_ID and APCA_API_SECRET_KEY. Patterns have * (anything), ? (any one) and [AB] (one of
    these), and are looked up among the assets that trade now; contracts, expired ones too, by underlying.

    Settings are those of the sections backfill and fetch: file < MDSTREAM_* environment < flags.

    Exit codes: 0 all is in the store; 1 some symbols are not complete; 2 wrong setting; 3 key or plan
    refused; 130 interrupted.
    """
    with _errors_as_json(as_json):
        wanted = Wanted(dataset, [*split_names(symbols), *_lines(symbols_file)], start, end, store)
        found, request = _prepare(given, config, wanted, loads_workers=not dry_run)
        if dry_run:
            view.show_estimate(request, store, found.budget_per_minute, as_json)
            return
        from mdstream.history.plan import check

        check(request, store, found.data)
    raise typer.Exit(int(_run(request, store, found, as_json)))


def _prepare(
    given: Given, file: Path | None, wanted: Wanted, loads_workers: bool
) -> tuple[HistoryConfig, Request]:
    """Return the settings of a backfill and its request, both checked."""
    options, flags = split_options(given)
    config = load(file, flags=flags).history
    if loads_workers:
        _begin_to_load(config.workers)
    from mdstream.history.api import resolve
    from mdstream.streams.datasets import history_of

    dataset, symbols, start, end, _ = wanted
    history_of(dataset)  # report an unknown one before any server is asked
    return config, asyncio.run(resolve(dataset, symbols, start, end, config, options))


def split_options(given: Given) -> tuple[HistoryOptions, Mapping[str, Any]]:
    """Return the options of a request among the flags that were given, and the settings."""
    options: Any = {each.name: each.read(given[each.name]) for each in _OPTIONS if each.name in given}
    return options, {name: value for name, value in given.items() if name not in options}


@contextlib.contextmanager
def _errors_as_json(wanted: bool) -> Iterator[None]:
    """Report an error before anything is fetched as the summary would be, if that is `wanted` as JSON."""
    try:
        yield
    except MdstreamError as error:
        if wanted:
            print(json.dumps({"complete": False, "interrupted": False, "error": str(error)}))
        raise


def _begin_to_load(workers: int) -> None:
    """Let workers load while this process does; if it fails early, they end with it."""
    from mdstream.pool import ipc
    from mdstream.pool.pool import load_early, one_a_core

    ipc.claim()
    with contextlib.suppress(OSError):  # reported when the pool is started
        load_early(one_a_core(workers))


def _run(request: Request, store: Path, config: HistoryConfig, as_json: bool) -> Exit:
    """Carry a request out and say what came of it."""
    from mdstream.history.backfill import Backfill
    from mdstream.history.executor import PagePool

    interrupted, failed = False, None
    with view.ProgressBar(request.dataset) as bar:
        work = Backfill(request, store, config, PagePool(config.workers), bar.update)
        bar.work = work
        try:
            import uvloop

            uvloop.run(_until_stopped(work, bar))
        except (asyncio.CancelledError, KeyboardInterrupt):
            interrupted = True
        except MdstreamError as error:
            failed = error
    view.show_end(request, work.status, interrupted, failed, as_json)
    if failed:
        raise failed
    return _exit_code(work.status, interrupted)


async def _until_stopped(work: Backfill, bar: view.ProgressBar) -> None:
    running = asyncio.ensure_future(work.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    keeping = asyncio.ensure_future(bar.keep())
    try:
        await running
    finally:
        keeping.cancel()


def _exit_code(status: Status, interrupted: bool) -> Exit:
    if interrupted:
        return Exit.INTERRUPTED
    return Exit.OK if status.complete else Exit.STREAM_FAILED


def _lines(path: Path | None) -> list[str]:
    """Return the symbols in a file."""
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"--symbols-file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--symbols-file {path}: {error}") from error
    return [name for line in lines for name in split_names(line.partition("#")[0])]
