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

from mdstream.errors import ConfigError, UnknownNameError
from mdstream.history.own_loop import run_apart, run_blocking
from mdstream.history.request import BackfillRequest, HistoryOptions, check_options, make_request
from mdstream.store.query import When
from mdstream.streams.datasets import history_of, resolve_dataset
from mdstream.system.paths import require_path

if TYPE_CHECKING:  # these take long to import
    from mdstream.config import BackfillSettings, Config
    from mdstream.history.status import Status

    Progress = Callable[[Status], None]


class BackfillOptions(HistoryOptions, total=False):
    """The options of `mdstream.backfill`."""

    store: Required[str | Path]
    """Folder of the store; made if it does not exist."""
    settings: Config | Mapping[str, Any] | str | Path | None
    """As `mdstream.Engine` takes them; a mapping wins over the environment: `data_url`, `backfill`, ..."""
    progress: Callable[[Status], None] | None
    """Called whenever the status has changed; in a program with an event loop, on another thread."""


_OPTIONS = tuple(BackfillOptions.__annotations__)


async def backfill_async(
    dataset: str, symbols: str | Sequence[str], start: When, end: When, **options: Unpack[BackfillOptions]
) -> Status:
    """Fetch a range of a dataset (`stocks.trades`, ...) into a store, except what the store has already.

        await mdstream.backfill_async("stocks.bars", ["AAPL"], "2026-01-05", "2026-01-09", store="market")

    `symbols` is one symbol or several, with patterns as `A*` (see `mdstream.history.universe`); news needs
    none. `options` are `store` (its folder), `settings` (as `Engine` takes them), `progress` (called in
    the caller's loop with each new status), and the flags of `mdstream backfill`, by name: `feed`,
    `timeframe` (a timedelta, too), `adjustment`, `priority`, `status`, `asof` and `refetch` (a date, too),
    and `repair`. None means the default. Keys come from the environment. `Status.failed` has the reason for
    each symbol that is incomplete.

    It has a loop of its own, in a thread, and does not block the caller's.

    A backfill that was interrupted or killed resumes when it is called again with the same arguments.
    Raises `ConfigError` for a wrong argument (`UnknownNameError` for an unknown one), `CredentialsError`,
    `StoreError`, and `NetworkError` if no server answers from the start.
    """
    loop = asyncio.get_running_loop()

    def hand_over(progress: Progress) -> Progress:
        def pass_on(status: Status) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop was closed: nobody wants to know
                loop.call_soon_threadsafe(progress, copy.copy(status))

        return pass_on

    return await run_apart(lambda: _backfill(dataset, symbols, start, end, options, hand_over))


def backfill(
    dataset: str, symbols: str | Sequence[str], start: When, end: When, **options: Unpack[BackfillOptions]
) -> Status:
    """Fetch as `backfill_async` does, and return when it has ended. Works in notebooks, too."""
    return run_blocking(lambda: _backfill(dataset, symbols, start, end, options, lambda progress: progress))


async def _backfill(
    dataset: str,
    symbols: str | Sequence[str],
    start: When,
    end: When,
    options: Mapping[str, Any],
    hand_over: Callable[[Progress], Progress],
) -> Status:
    from mdstream.history.backfill import Backfill
    from mdstream.history.executor import make_executor
    from mdstream.history.plan import check
    from mdstream.pool import ipc_names
    from mdstream.settings import load_any

    for name in options:
        if name not in _OPTIONS:
            raise UnknownNameError.among(_OPTIONS, name, f"backfill: {name!r} is not an option")
    given = dict(options)
    store = Path(require_path("store", given.pop("store", "")))
    settings, progress = given.pop("settings", None), given.pop("progress", None)
    if not (progress is None or callable(progress)):
        raise ConfigError(f"progress: {progress!r} is not a function")
    config = load_any("settings", settings).backfill_settings
    ipc_names.reap()
    request = await resolve(dataset, symbols, start, end, config, given)
    check(request, config.data)
    pass_on = hand_over(progress or (lambda status: None))
    return await Backfill(request, store, config, make_executor(config), pass_on).run()


async def resolve(
    dataset: str,
    symbols: str | Sequence[str],
    start: When,
    end: When,
    config: BackfillSettings,
    options: Mapping[str, Any],
) -> BackfillRequest:
    """Return the checked request, its patterns replaced by symbols; `options` are `HistoryOptions`.

    Without one of them, the data feed is that of the settings. Raises what `check_options`,
    `resolve_symbols` and `make_request` raise.
    """
    from mdstream.history.universe import resolve_symbols

    dataset = resolve_dataset(dataset)
    history_of(dataset)  # fails for an unknown dataset before any server is asked
    given = {"feed": config.feeds.get(dataset.partition(".")[0]), **check_options(options)}
    names = await resolve_symbols(dataset, symbols, start, config, given.get("status") or "active")
    return make_request(dataset, names, start, end, now=datetime.now(UTC), **given)
