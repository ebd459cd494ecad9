"""Functions that fill a store: `mdstream.backfill`, and `backfill_async` for an event loop.

Both may be called in a program with a loop, such as a notebook. The work loads many modules and starts
processes, which would block that loop for seconds, so it has a loop of its own, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, Unpack

from mdstream.history.own_loop import run_apart, run_blocking
from mdstream.history.request import BackfillRequest, HistoryOptions, make_request
from mdstream.store.query import When
from mdstream.system.paths import require_path

if TYPE_CHECKING:  # these take long to import
    from mdstream.config import HistoryConfig
    from mdstream.history.status import Status


class BackfillOptions(HistoryOptions, total=False):
    """The options of `mdstream.backfill`."""

    store: Required[str | Path]
    """Folder of the store; made if it does not exist."""
    settings: Mapping[str, Any] | None
    """Settings as in the file, which win over the environment: `data_url`, `backfill`, `fetch`, ..."""
    progress: Callable[[Status], None]
    """Called whenever the status has changed; in a program with an event loop, on another thread."""


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

    It has a loop of its own, in a thread, and does not block the caller's. `progress` is called in the
    caller's loop.

    A backfill that was interrupted or killed resumes when it is called again with the same arguments.
    Raises `ConfigError`, `CredentialsError`, `StoreError`, and `NetworkError` if no server answers from the
    start.
    """
    loop = asyncio.get_running_loop()

    def pass_on(status: Status) -> None:
        with contextlib.suppress(RuntimeError):  # the caller's loop was closed: nobody wants to know
            loop.call_soon_threadsafe(progress, copy.copy(status))

    return await run_apart(
        lambda: _backfill(dataset, symbols, start, end, store, settings, pass_on, options)
    )


def backfill(
    dataset: str, symbols: str | Sequence[str], start: When, end: When, **options: Unpack[BackfillOptions]
) -> Status:
    """Fetch as `backfill_async` does, and return when it has ended. Works in notebooks, too."""
    given: Any = dict(options)
    store, settings = given.pop("store"), given.pop("settings", None)
    progress = given.pop("progress", lambda status: None)
    return run_blocking(lambda: _backfill(dataset, symbols, start, end, store, settings, progress, given))


async def _backfill(
    dataset: str,
    symbols: str | Sequence[str],
    start: When,
    end: When,
    store: str | Path,
    settings: Mapping[str, Any] | None,
    progress: Callable[[Status], None],
    options: HistoryOptions,
) -> Status:
    from mdstream.history.backfill import Backfill
    from mdstream.history.executor import PagePool
    from mdstream.history.plan import check
    from mdstream.pool import ipc_names
    from mdstream.settings import load

    require_path("store", store)
    ipc_names.reap()
    config = load(flags=settings, source="settings").history
    request = await resolve(dataset, symbols, start, end, config, options)
    check(request, config.data)
    return await Backfill(request, Path(store), config, PagePool(config.workers), progress).run()


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
    from mdstream.history.universe import resolve_symbols

    names = await resolve_symbols(dataset, symbols, start, config, options.get("status") or "active")
    return make_request(dataset, names, start, end, now=datetime.now(UTC), **options)
