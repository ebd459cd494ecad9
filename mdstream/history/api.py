"""Functions that fill a store: `mdstream.backfill`, and `backfill_async` for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Required, Unpack

from mdstream.config import HistoryConfig
from mdstream.history.backfill import Backfill, Status
from mdstream.history.executor import PagePool
from mdstream.history.plan import check
from mdstream.history.request import BackfillRequest, HistoryOptions, make_request
from mdstream.history.universe import resolve_symbols
from mdstream.pool import ipc_names
from mdstream.settings import load
from mdstream.store.query import When


class BackfillOptions(HistoryOptions, total=False):
    """The options of `mdstream.backfill`."""

    store: Required[str | Path]
    """Folder of the store; made if it does not exist."""
    settings: Mapping[str, Any] | None
    """Settings as in the file, which win over the environment: `data_url`, `backfill`, `fetch`, ..."""
    progress: Callable[[Status], None]
    """Called whenever the status has changed."""


async def backfill_async(
    dataset: str,
    symbols: str | Sequence[str],
    start: When,
    end: When,
    *,
    store: str | Path,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[Status], None] = lambda status: None,
    **options: Unpack[HistoryOptions],
) -> Status:
    """Fetch a range of a dataset (`stocks.trades`, ...) into a store, except what the store has already.

    `symbols` is one symbol or several, with patterns as `A*` (see `mdstream.history.universe`); news needs
    none. `options` are `HistoryOptions`. Keys come from the environment. `Status.failed` has the reason for
    each symbol that is incomplete.

    A backfill that was interrupted or killed resumes when it is called again with the same arguments.
    Raises `ConfigError`, `CredentialsError`, `StoreError`, and `NetworkError` if no server answers from the
    start.
    """
    ipc_names.reap()
    config = load(flags=settings, source="settings").history
    request = await resolve(dataset, symbols, start, end, config, options)
    check(request, Path(store), config.data)
    return await Backfill(request, Path(store), config, PagePool(config.workers), progress).run()


def backfill(
    dataset: str, symbols: str | Sequence[str], start: When, end: When, **options: Unpack[BackfillOptions]
) -> Status:
    """Run `backfill_async`, and wait for it.

    If an event loop runs already, as in a notebook, the backfill runs in a thread of its own, which also
    calls `progress`. That loop stops meanwhile: a coroutine should await `backfill_async` instead.
    """
    work = backfill_async(dataset, symbols, start, end, **options)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _run_in_thread(work)


def _run_in_thread(work: Coroutine[Any, Any, Status]) -> Status:
    """Run `work` in an event loop in another thread, and wait for it. Ctrl-C cancels it."""
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Status]]] = Future()

    async def run() -> Status:
        task = asyncio.ensure_future(work)
        running.set_result((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(1, "backfill") as thread:
        result = thread.submit(asyncio.run, run())
        try:
            return result.result()
        except BaseException:
            if not result.done():
                loop, task = running.result()
                loop.call_soon_threadsafe(task.cancel)
            raise


async def resolve(
    dataset: str,
    symbols: str | Sequence[str],
    start: When,
    end: When,
    config: HistoryConfig,
    options: HistoryOptions,
) -> BackfillRequest:
    """Return the checked request, its patterns replaced by symbols.

    Raises what `resolve_symbols` and `make_request` raise.
    """
    names = await resolve_symbols(dataset, symbols, start, config, options.get("status") or "active")
    return make_request(dataset, names, start, end, now=datetime.now(UTC), **options)
