"""When a stream's symbols are fetched: all at the start and at each interval, new ones at once.

`session.fetch` fetches; this says when and what, and reports the results.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable

from mdstream.feed.assignment import Assignment
from mdstream.feed.selection import Selection
from mdstream.frames.rundir import requests_path
from mdstream.session.budget import Budget
from mdstream.session.fetch import Commit, Cycle, Fetcher
from mdstream.session.rest import RestClient
from mdstream.streams import STREAMS
from mdstream.telemetry.events import EventKind, RunEvent, Severity

log = logging.getLogger(__name__)


class Fetching:
    """Fetches the selected symbols of one stream until it is cancelled.

    `on_chain` is called with each fetched underlying and its contracts, `on_cycle` with each cycle over all
    symbols, and `report` with the event of each fetch.
    """

    # Written by `run`; `_results` also by `forget`.
    _results: Cycle | None
    """The last result of each symbol, once the first cycle is complete."""
    _client: RestClient | None
    _fetcher: Fetcher | None
    # Written by `start` and `add`.
    _may_fetch: asyncio.Event
    _new: dict[str, None]
    """Symbols that are not in a cycle yet."""
    _has_new: asyncio.Event

    def __init__(
        self,
        assignment: Assignment,
        selection: Selection,
        commit: Commit,
        on_chain: Callable[[str, list[str]], None],
        on_cycle: Callable[[Cycle], None],
        report: Callable[[RunEvent], None],
    ) -> None:
        self._assignment = assignment
        self._selection = selection
        self._commit = commit
        self._on_chain, self._on_cycle, self._report = on_chain, on_cycle, report
        self._results = self._client = self._fetcher = None
        self._may_fetch, self._has_new, self._new = asyncio.Event(), asyncio.Event(), {}

    def start(self) -> None:
        """Let fetching begin: the supervisor starts all streams at once."""
        self._may_fetch.set()

    def add(self, symbols: Iterable[str]) -> None:
        """Fetch new symbols once, as soon as no cycle runs."""
        self._new |= dict.fromkeys(symbols)
        if self._new:
            self._has_new.set()

    def forget(self, symbols: Iterable[str]) -> None:
        """Forget the results of symbols that are no longer selected."""
        for symbol in symbols:
            self._new.pop(symbol, None)
            if self._results is not None:
                self._results.ok.discard(symbol)
                self._results.failed.pop(symbol, None)

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return 0 if self._client is None else self._client.requests

    async def run(self) -> None:
        """Fetch all symbols at the start and at each interval, and new ones in between."""
        await self._may_fetch.wait()
        assignment, config = self._assignment, self._assignment.config
        interval, spec = config.fetch.interval_s, STREAMS[assignment.stream]
        budget = Budget.in_file(assignment.budget, requests_path(assignment.run, spec.name))
        async with RestClient(config.fetch, config.data, budget) as self._client:
            fetcher = self._fetcher = Fetcher(
                spec, config.stream, self._client, self._commit, interval, self._on_chain
            )
            while True:
                due = time.monotonic() + (interval or math.inf)
                self._new.clear()
                if symbols := [s for s in self._selection.symbols if s != "*"]:
                    self._record(await fetcher.cycle(symbols))
                while await self._wait_for_new(due):
                    symbols, self._new = [*self._new], {}
                    self._record_new(await fetcher.cycle(symbols, are_new=True))

    async def _wait_for_new(self, due: float) -> bool:
        """Wait for new symbols; return False if all symbols are due before."""
        while not self._new and (left := due - time.monotonic()) > 0:
            self._has_new.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if left == math.inf else left):
                    await self._has_new.wait()
        return bool(self._new) and due > time.monotonic()

    def _record(self, cycle: Cycle) -> None:
        self._results = cycle
        self._on_cycle(cycle)
        self._report_fetch(cycle, "symbols")

    def _record_new(self, cycle: Cycle) -> None:
        """Add the results of new symbols to those of the last cycle."""
        results = self._results = self._results or Cycle()
        results.ok = results.ok - cycle.failed.keys() | cycle.ok
        results.failed = {s: why for s, why in results.failed.items() if s not in cycle.ok} | cycle.failed
        self._report_fetch(cycle, "new symbols")

    def _report_fetch(self, cycle: Cycle, what: str) -> None:
        text = f"fetched {len(cycle.ok)} {what} in {cycle.duration_s:.3f} s, {cycle.requests} requests"
        if cycle.failed:
            text += f"; {len(cycle.failed)} symbols failed"
        severity = Severity.WARNING if cycle.failed else Severity.INFO
        log.log(severity, "%s", text)
        fields = {
            "ok": len(cycle.ok),
            "failed": len(cycle.failed),
            "requests": cycle.requests,
            "t_stream_s": cycle.duration_s,
        }
        self._report(RunEvent(EventKind.FETCHED, text, severity, fields))

    def find_results(self) -> Cycle | None:
        """Return the last result of each symbol; None before the first cycle is complete.

        If requests of the first cycle fail, its results so far count.
        """
        if self._results is not None or self._fetcher is None:
            return self._results
        if self._client is None or not self._client.trouble:
            return None
        cycle = self._fetcher.current
        pending = self._selection.symbols.keys() - cycle.ok - cycle.failed.keys() - {"*"}
        why = dict.fromkeys(pending, f"not fetched yet: {self._client.trouble}")
        return Cycle(cycle.ok, {**why, **cycle.failed})
