"""`mdstream backfill`: history into a store on disk, with a progress bar."""

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
from mdstream.cli.flags import ConfigFile, Given, add_flags, parse_path, select, split_names
from mdstream.errors import ConfigError, Exit, MdstreamError
from mdstream.history.request import HistoryOptions
from mdstream.settings import describe, load
from mdstream.streams.datasets import datasets

if TYPE_CHECKING:
    from mdstream.config import BackfillSettings
    from mdstream.history.backfill import Backfill
    from mdstream.history.request import BackfillRequest

_OPTIONS = describe(HistoryOptions)
_SETTINGS = select("backfill.concurrency", "backfill.workers", "data_url")


class Arguments(NamedTuple):
    """The arguments of the command that define the request."""

    dataset: str
    symbols: list[str]
    start: str
    end: str
    store: Path


@add_flags(*_OPTIONS, *_SETTINGS)
def backfill(
    given: Given,
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help=f"What to fetch: {', '.join(datasets())}.")
    ],
    start: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Start of the range, a date or time: 2026-01-05, 2026-01-05T14:30Z."
        ),
    ],
    end: Annotated[
        str, typer.Option(metavar="TIME", help="End of the range (exclusive); a date includes that day.")
    ],
    store: Annotated[
        Path,
        typer.Option(
            metavar="DIR", parser=parse_path, help="Folder of the store; created if it does not exist."
        ),
    ],
    symbols: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Symbols, or patterns such as 'A*'. For options: contracts, as 'AAPL2612*C*'; a pattern "
            "begins with a whole underlying, so that 'GOOG*' has no GOOGL. Optional for news.",
        ),
    ] = None,
    symbols_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=parse_path, help="More symbols: one per line; # starts a comment."
        ),
    ] = None,
    config: ConfigFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print an estimate; fetch nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as a JSON object.")] = False,
) -> None:
    """Fetch a range of history into a store; what is already there is not fetched again.

    After Ctrl-C, a kill or a failure, run the same command again: it resumes. Keys come from
    APCA_API_KEY_ID and APCA_API_SECRET_KEY. Patterns have * (any text), ? (any character) and [AB] (A or
    B). They are looked up among the assets that trade now (--status all: delisted ones too); contracts,
    expired ones too, by their underlying. Days without a session are not requested.

    Settings are those of the sections backfill and fetch, and the data feed of the stream, as stocks.feed:
    file < MDSTREAM_* environment < flags.

    Exit codes: 0 all that the service has is in the store; 1 incomplete: symbols failed, records were
    rejected in this run, or days are short after --repair (the last line says which); 2 wrong setting; 3
    key or plan refused; 130 interrupted.
    """
    with _errors_as_json(as_json):
        arguments = Arguments(
            dataset, [*split_names(symbols), *_read_symbols(symbols_file)], start, end, store
        )
        found, request = _prepare(given, config, arguments, loads_workers=not dry_run)
        if dry_run:
            view.show_estimate(request, store, found.budget_per_minute, as_json)
            return
        from mdstream.history.plan import check

        check(request, found.data)
    raise typer.Exit(int(_run(request, store, found, as_json)))


def _prepare(
    given: Given, file: Path | None, arguments: Arguments, loads_workers: bool
) -> tuple[BackfillSettings, BackfillRequest]:
    """Return the settings of a backfill and its request, both checked."""
    options, flags = split_options(given)
    config = load(file, flags=flags).backfill_settings
    if loads_workers:
        _start_loading(config.workers)
    from mdstream.history.api import resolve

    dataset, symbols, start, end, _ = arguments
    return config, asyncio.run(resolve(dataset, symbols, start, end, config, options))


def split_options(given: Given) -> tuple[HistoryOptions, Mapping[str, Any]]:
    """Return the given flags as options of the request, and settings; neither is checked."""
    options: Any = {each.name: given[each.name] for each in _OPTIONS if each.name in given}
    return options, {name: value for name, value in given.items() if name not in options}


@contextlib.contextmanager
def _errors_as_json(wanted: bool) -> Iterator[None]:
    """Print an error as a JSON object too, if `wanted`: it replaces the summary."""
    try:
        yield
    except MdstreamError as error:
        if wanted:
            print(json.dumps({"complete": False, "interrupted": False, "error": str(error)}))
        raise


def _start_loading(workers: int) -> None:
    """Load workers while this process prepares the request; they end with it if it fails."""
    from mdstream.pool import ipc_names
    from mdstream.pool.early import load_for_workers
    from mdstream.pool.pool import one_a_core
    from mdstream.system.resources import BACKFILL_FILES, allow_files

    ipc_names.claim()
    allow_files(BACKFILL_FILES)
    with contextlib.suppress(OSError):  # reported when the pool is started
        load_for_workers(one_a_core(workers))


def _run(request: BackfillRequest, store: Path, config: BackfillSettings, as_json: bool) -> Exit:
    """Execute a request and print its summary."""
    from mdstream.history.backfill import Backfill
    from mdstream.history.executor import make_executor

    interrupted, failed = False, None
    with view.ProgressBar(request.dataset) as bar:
        work = Backfill(request, store, config, make_executor(config), bar.update)
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
    return Exit.INTERRUPTED if interrupted else work.status.exit_code


async def _until_stopped(work: Backfill, bar: view.ProgressBar) -> None:
    running = asyncio.ensure_future(work.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    refreshing = asyncio.ensure_future(bar.refresh())
    try:
        await running
    finally:
        refreshing.cancel()


def _read_symbols(path: Path | None) -> list[str]:
    """Return the symbols in a file."""
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"--symbols-file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--symbols-file {path}: {error}") from error
    return [name for line in lines for name in split_names(line.partition("#")[0])]
