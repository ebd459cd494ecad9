"""`mdstream backfill`: history into a store on disk, with a bar that tells how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mdstream.errors import ConfigError, Exit, MdstreamError
from mdstream.streams.datasets import datasets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mdstream.config import HistoryConfig
    from mdstream.history.backfill import Backfill, Status
    from mdstream.history.plan import Estimate
    from mdstream.history.request import Request

_LONGEST_LIST = 20
_LINE_EVERY_S = 10.0
_WAITING = "waiting {:.0f} s for the service's request budget"


def backfill(
    dataset: Annotated[str, typer.Argument(help=f"What to fetch: {', '.join(datasets())}.")],
    start: Annotated[str, typer.Option(metavar="TIME", help="First moment: 2026-01-05, or with a time.")],
    end: Annotated[
        str, typer.Option(metavar="TIME", help="Moment past the last; a date includes that day.")
    ],
    store: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the store; made if need be.")],
    symbols: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Symbols, or patterns, as 'A*', of contracts 'AAPL2612*C*'. Articles need none.",
        ),
    ] = None,
    symbols_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="More symbols: one a line, # begins a comment.")
    ] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="A,B", help="Symbols to fetch before all others.")
    ] = None,
    feed: Annotated[str, typer.Option(help="Feed, as sip or iex. Default: the stream's own.")] = "",
    timeframe: Annotated[str, typer.Option(help="Of bars: 1Min (default), 15Min, 1Hour, 1Day, …")] = "",
    adjustment: Annotated[
        str, typer.Option(help="Of bars of equities: raw (default), split, dividend, spin-off, all.")
    ] = "",
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Worker processes. Default: one a core.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Requests under way at a time.")
    ] = None,
    data_url: Annotated[
        str | None, typer.Option(metavar="HTTP_URL", help="Any Alpaca-compatible REST server.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Settings; docs/settings.md lists all.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take; fetch nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as a JSON object.")] = False,
) -> None:
    """Fetch a range of history into a store, as far as it is not there yet.

    Ctrl-C ends it, and so does anything else: run the same again and it goes on where it was. Keys come
    from APCA_API_KEY_ID and APCA_API_SECRET_KEY. Patterns have * (anything), ? (any one) and [AB] (one of
    these), and are looked up among the assets that trade now; contracts, expired ones too, by underlying.

    Exit codes: 0 all is in the store; 1 some symbols are not complete; 2 wrong setting; 3 key or plan
    refused; 130 interrupted.
    """
    flags: dict[str, Any] = {"backfill": {}}
    if concurrency is not None:
        flags["backfill"]["concurrency"] = concurrency
    if workers is not None:
        flags["backfill"]["workers"] = workers
    if data_url is not None:
        flags["data_url"] = data_url
    with _told_in_json(as_json):
        from mdstream.settings import load

        settings = load(config, flags=flags).history
        if not dry_run:
            _begin_to_load(settings.workers)
        from mdstream.history.plan import check, estimate
        from mdstream.history.request import make_request
        from mdstream.history.universe import resolve_symbols
        from mdstream.streams.datasets import history_of

        history_of(dataset)  # an odd one is told before anybody is asked
        wanted = [*_names(symbols), *_lines(symbols_file)]
        names = asyncio.run(resolve_symbols(dataset, wanted, start, settings))
        request = make_request(
            dataset,
            names,
            start,
            end,
            feed=feed,
            timeframe=timeframe,
            adjustment=adjustment,
            urgent=_names(priority),
            now=datetime.now(UTC),
        )
        if dry_run:
            found = estimate(request, store, settings.budget_per_minute)
            text = _told_estimate(request, found, store, settings.budget_per_minute)
            print(json.dumps(found._asdict()) if as_json else text)
            return
        check(request, store, settings.data)
    raise typer.Exit(int(_run(request, store, settings, as_json)))


@contextlib.contextmanager
def _told_in_json(wanted: bool) -> Iterator[None]:
    """An error before anything is fetched is told as the summary would be, if that is `wanted` as JSON."""
    try:
        yield
    except MdstreamError as error:
        if wanted:
            print(json.dumps({"complete": False, "interrupted": False, "error": str(error)}))
        raise


def _begin_to_load(workers: int) -> None:
    """Workers load while this process does; if nothing comes of it, they end with this process."""
    from mdstream.pool.pool import load_early, one_a_core

    with contextlib.suppress(OSError):  # told when the pool is started
        load_early(one_a_core(workers))


def _run(request: Request, store: Path, config: HistoryConfig, as_json: bool) -> Exit:
    from mdstream.history.backfill import Backfill
    from mdstream.history.executor import PagePool

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f}%  {task.fields[told]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(request.dataset, total=None, told="")
    loop_started = datetime.now(UTC)

    def tell(status: Status) -> None:
        seconds = (datetime.now(UTC) - loop_started).total_seconds()
        rate = status.rows / max(seconds, 0.1)
        told = f"{status.rows:,} rows, {status.requests:,} requests, {rate:,.0f} rows/s"
        if 0.01 * status.shards < status.done < status.shards:
            left = seconds / status.done * (status.shards - status.done)
            told += f", {_time(left)} left"
        if (waits_s := work.waits_s) > 1:
            told += f", {_WAITING.format(waits_s)}"
        if status.failed:
            told += f", [red]{len(status.failed)} failed[/]"
        bar.update(task, total=max(1, status.shards), completed=status.done, told=told)

    work = Backfill(request, store, config, PagePool(config.workers), tell)
    interrupted, failed = False, None

    async def until_stopped() -> None:
        running = asyncio.ensure_future(work.run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, running.cancel)
        telling = asyncio.ensure_future(_tell_now_and_then(request.dataset, work, tell))
        try:
            await running
        finally:
            telling.cancel()

    with bar:
        try:
            import uvloop

            uvloop.run(until_stopped())
        except (asyncio.CancelledError, KeyboardInterrupt):
            interrupted = True
        except MdstreamError as error:
            failed = error
    status = work.status
    if as_json:
        print(json.dumps(_plain(status, interrupted, failed)))
    else:
        _show(request, status)
    if interrupted or (failed and status.pages):
        what = "interrupted" if interrupted else "what was fetched is safe"
        print(f"  {what}: run the same again, and it goes on where it was", file=sys.stderr)
    if failed:
        raise failed
    if interrupted:
        return Exit.INTERRUPTED
    return Exit.OK if status.complete else Exit.STREAM_FAILED


async def _tell_now_and_then(dataset: str, work: Backfill, tell: Callable[[Status], None]) -> None:
    """Bring the bar up to date though nothing comes. Where there is no terminal for one, write a line now
    and then, so that a log shows that it goes on.
    """
    told_at = time.monotonic()
    while True:
        await asyncio.sleep(min(1.0, _LINE_EVERY_S))
        status = work.status
        tell(status)
        if not sys.stderr.isatty() and time.monotonic() - told_at >= _LINE_EVERY_S:
            told_at = time.monotonic()
            waits = f", {_WAITING.format(work.waits_s)}" if work.waits_s > 1 else ""
            print(
                f"{dataset}: {status.done:,.1f} of {status.shards:,} shards, {status.rows:,} rows, "
                f"{status.requests:,} requests{waits}",
                file=sys.stderr,
            )


def _plain(status: Status, interrupted: bool, failed: MdstreamError | None) -> dict[str, Any]:
    complete = status.complete and not interrupted and not failed
    told = {"complete": complete, "interrupted": interrupted, "error": str(failed or "") or None}
    return {**msgspec.to_builtins(status), "done": round(status.done, 3), **told}


def _told_estimate(request: Request, found: Estimate, store: Path, per_minute: int) -> str:
    if not found.shards:
        return f"{request.dataset}: nothing to fetch: all of it is in {store}"
    long = f"{_time(found.seconds)} at {per_minute} a minute" if found.seconds else "at once"
    if found.rows is None:
        told = (
            f"in {found.requests:,} requests at least: {long}. Each page of {request.history.limit:,} rows "
            "beyond a shard's first is one more; how many there are, nobody knows before."
        )
    else:
        told = (
            f"some {found.rows:,} rows in {found.requests:,} requests, by what the store has of these "
            f"symbols or of others: {long}."
        )
    begun = f" (of {found.begun:,} some pages are)" if found.begun else ""
    return (
        f"{request.dataset}: {found.already} of {len(request.symbols)} symbols are fetched; "
        f"{found.shards:,} shards to fetch{begun}, {told}"
    )


def _show(request: Request, status: Status) -> None:
    rate = status.rows / max(status.seconds, 0.001)
    if status.shards or status.failed:
        print(
            f"{request.dataset}: {status.rows:,} rows in {_time(status.seconds)} ({rate:,.0f} rows/s), "
            f"{status.requests:,} requests, {status.bytes / 1e6:,.1f} MB"
        )
        waiting = status.rows - status.stored
        told = f"; {waiting:,} are fetched and safe, the next run stores them" if waiting > 0 else ""
        print(f"  {status.stored:,} rows stored in {status.files:,} files{told}")
    if status.already:
        print(f"  {status.already} of {len(request.symbols)} symbols were complete before")
    if status.rejected:
        print(f"  {status.rejected:,} records could not become rows; they are in _mdstream/rejects")
    for symbol, why in list(status.failed.items())[:_LONGEST_LIST]:
        print(f"  {symbol}: {why}", file=sys.stderr)
    if len(status.failed) > _LONGEST_LIST:
        print(f"  and {len(status.failed) - _LONGEST_LIST} more symbols", file=sys.stderr)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"--symbols-file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--symbols-file {path}: {error}") from error
    return [name for line in lines for name in _names(line.partition("#")[0])]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
