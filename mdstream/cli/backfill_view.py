"""The output of `mdstream backfill`: a progress bar or log lines, the estimate, the summary."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mdstream.errors import MdstreamError
from mdstream.history.status import Activity, count_of

if TYPE_CHECKING:
    from mdstream.history.backfill import Backfill
    from mdstream.history.plan import Estimate
    from mdstream.history.request import BackfillRequest
    from mdstream.history.status import Status

_LONGEST_LIST = 20
_LINE_EVERY_S = 10.0


class ProgressBar:
    """A progress bar in a terminal; elsewhere a line every few seconds, so that a log shows progress."""

    # Set by the command once there is work.
    work: Backfill | None

    def __init__(self, dataset: str) -> None:
        self.work = None
        self._dataset = dataset
        self._started = time.monotonic()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f}%  {task.fields[text]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(dataset, total=None, text="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, status: Status) -> None:
        """Draw the bar again."""
        seconds = time.monotonic() - self._started
        text = describe_progress(status, seconds, self._activity)
        self._bar.update(self._task, total=status.shards or None, completed=status.done, text=text)

    async def refresh(self) -> None:
        """Update the bar while no page arrives; if there is no terminal, print lines."""
        printed_at = time.monotonic()
        while True:
            await asyncio.sleep(min(1.0, _LINE_EVERY_S))
            if self.work is None or not self._activity.requests:
                continue
            status = self.work.status
            self.update(status)
            if not sys.stderr.isatty() and time.monotonic() - printed_at >= _LINE_EVERY_S:
                printed_at = time.monotonic()
                print(
                    f"{self._dataset}: {status.done:,.1f} of {status.shards:,} shards, "
                    f"{status.rows:,} rows, {self._activity}",
                    file=sys.stderr,
                )

    @property
    def _activity(self) -> Activity:
        return self.work.activity if self.work else Activity(0)


def describe_progress(status: Status, seconds: float, activity: Activity) -> str:
    """Return the progress of a backfill after `seconds`, as one line with markup."""
    rate = status.rows / max(seconds, 0.1)
    text = f"{count_of(status.rows, 'row')}, {rate:,.0f} rows/s, {activity}"
    if 0.01 * status.shards < status.done < status.shards:
        left = seconds / status.done * (status.shards - status.done)
        text += f", {format_seconds(left)} left"
    if status.failed:
        text += f", [red]{len(status.failed)} failed[/]"
    return text


def show_estimate(request: BackfillRequest, store: Path, per_minute: int, as_json: bool) -> None:
    """Print an estimate of a request at a budget of `per_minute` requests."""
    from mdstream.history.plan import estimate

    found = estimate(request, store, per_minute)
    print(json.dumps(found._asdict()) if as_json else describe_estimate(request, found, store, per_minute))


def describe_estimate(request: BackfillRequest, found: Estimate, store: Path, per_minute: int) -> str:
    """Return an estimate in words."""
    if request.is_closed(request.first, request.past):
        return f"{request.dataset}: nothing to fetch, {request.feed} has no session in this range"
    if not found.shards:
        return f"{request.dataset}: nothing to fetch, all of it is in {store}"
    requests = count_of(found.requests, "request")
    if found.seconds:
        requests += f", {format_seconds(found.seconds)} at {per_minute} requests/min"
    if found.rows is None:
        text = (
            f"at least {requests}. Each further page of {request.history.limit:,} rows is one more "
            "request; the number of rows is not known yet."
        )
    else:
        text = f"about {found.rows:,} rows in {requests}. Estimated from the rows that the store has."
    begun = f" ({found.begun:,} of them in part)" if found.begun else ""
    symbols = count_of(len(request.symbols), "symbol")
    return (
        f"{request.dataset}: {found.already} of {symbols} already in the store; "
        f"{count_of(found.shards, 'shard')} to fetch{begun}: {text}"
    )


def show_end(
    request: BackfillRequest, status: Status, interrupted: bool, failed: MdstreamError | None, as_json: bool
) -> None:
    """Print the summary of a backfill, and how to resume one that did not finish."""
    if as_json:
        print(json.dumps(_as_values(status, interrupted, failed)))
    else:
        _show_summary(request, status)
    if status.why_incomplete and not (as_json or interrupted or failed):
        print(f"  incomplete (exit code {status.exit_code}): {status.why_incomplete}", file=sys.stderr)
    if interrupted or (failed and status.pages):
        what = "interrupted" if interrupted else "the fetched pages are kept"
        print(f"  {what}: run the same command again to resume", file=sys.stderr)


def _as_values(status: Status, interrupted: bool, failed: MdstreamError | None) -> dict[str, Any]:
    complete = status.complete and not interrupted and not failed
    end = {
        "complete": complete,
        "incomplete": status.why_incomplete or None,
        "interrupted": interrupted,
        "error": str(failed or "") or None,
    }
    return {**msgspec.to_builtins(status), "done": round(status.done, 3), **end}


def _show_summary(request: BackfillRequest, status: Status) -> None:
    rate = status.rows / max(status.seconds, 0.001)
    if status.shards or status.failed:
        print(
            f"{request.dataset}: {count_of(status.rows, 'row')} in {format_seconds(status.seconds)} "
            f"({rate:,.0f} rows/s), {count_of(status.requests, 'request')}, {status.bytes / 1e6:,.1f} MB"
        )
        text = f"{count_of(status.stored, 'row')} stored in {count_of(status.files, 'file')}"
        if status.repeated:
            text += f"; {count_of(status.repeated, 'row')} left out that came again"
        if (waiting := status.rows - status.stored - status.repeated) > 0:
            text += f"; {count_of(waiting, 'row')} fetched only, for the next run to store"
        print(f"  {text}")
    if request.is_closed(request.first, request.past):
        print(f"{request.dataset}: {request.feed} has no session in this range")
    elif status.already:
        print(f"  {status.already} of {count_of(len(request.symbols), 'symbol')} already in the store")
    if status.until:
        print(f"  data after {status.until} is not fetched: the plan excludes it; run the same again later")
    if status.empty:
        print(f"  {count_of(status.empty, 'shard')} without rows although the market was open")
    if status.short:
        print(f"  {count_of(status.short, 'day')} with fewer rows than the service's daily bars say")
    if status.unrequested:
        print(f"  {status.unrequested}")
    if status.rejected:
        print(
            f"  {count_of(status.rejected, 'record')} rejected and kept in _mdstream/rejects of the store"
        )
    for symbol, why in list(status.failed.items())[:_LONGEST_LIST]:
        print(f"  {symbol}: {why}", file=sys.stderr)
    if len(status.failed) > _LONGEST_LIST:
        print(f"  and {len(status.failed) - _LONGEST_LIST} more symbols", file=sys.stderr)


def format_seconds(seconds: float) -> str:
    """Return a duration as people write it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
