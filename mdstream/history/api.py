"""Filling a store from a program: `mdstream.backfill`, and the same for one with a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from mdstream.history.backfill import Backfill, Status
from mdstream.history.executor import PagePool
from mdstream.history.plan import check
from mdstream.history.request import make_request
from mdstream.history.universe import resolve_symbols
from mdstream.settings import load

When = str | date | datetime


async def backfill_async(
    dataset: str,
    symbols: str | Sequence[str],
    start: When,
    end: When,
    *,
    store: str | Path,
    feed: str = "",
    timeframe: str = "",
    adjustment: str = "",
    priority: str | Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[Status], None] = lambda status: None,
) -> Status:
    """Bring a range of a dataset (`stocks.trades`, …) into a store, as far as it is not there.

    `symbols`, or one alone, may hold patterns, as `A*` (see `mdstream.history.universe`); of news none are
    needed. `settings` are those of a run (`data_url`, `workers`, `fetch`, …); keys come from the
    environment. What is interrupted, or killed, goes on where it was when the same is asked again. The
    answer's `failed` says by symbol what could not be had, and why. Raises `ConfigError`,
    `CredentialsError`, `StoreError`, and `NetworkError` where nobody answers from the start.
    """
    config = load(flags=settings, source="settings").history
    names = await resolve_symbols(dataset, symbols, start, config)
    request = make_request(
        dataset,
        names,
        start,
        end,
        feed=feed,
        timeframe=timeframe,
        adjustment=adjustment,
        urgent=priority,
        now=datetime.now(UTC),
    )
    check(request, Path(store), config.data)
    return await Backfill(request, Path(store), config, PagePool(config.workers), progress).run()


def backfill(dataset: str, symbols: str | Sequence[str], start: When, end: When, **options: Any) -> Status:
    """`backfill_async`, for a program without a loop."""
    return asyncio.run(backfill_async(dataset, symbols, start, end, **options))
