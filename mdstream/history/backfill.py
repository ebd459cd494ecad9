"""Fetching of history: hundreds of requests at a time, decoded on all cores, in bounded memory.

    shards, urgent ones first ─► a page ─► a worker stages it ─► its token ─► the next page ─┐
       ▲ as many at a time as the concurrency allows                           └─ last ─► filing

1. Settle what earlier runs have left: commits that were under way, and staged pages.
2. Fetch each shard page after page, because a page names the next one. Fetch many shards at once.
3. Whatever ends the process, the ledger and the table know how far it came, and the next run resumes there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import msgspec

from mdstream.config import BackfillSettings
from mdstream.errors import (
    BadRequestError,
    ConfigError,
    CredentialsError,
    EndlessAnswerError,
    MdstreamError,
    NoWorkersError,
    PlanError,
    SharedMemoryError,
    StoreError,
    UnusableAnswerError,
    first_error,
)
from mdstream.handoff.page_ticket import PageReceipt, PageTicket
from mdstream.handoff.rejects import reject_row
from mdstream.history.executor import PageExecutor
from mdstream.history.filing import Filing
from mdstream.history.ledger import Ledger, Progress
from mdstream.history.plan import add_work, is_wanted, reopen_outdated, sort_shards, why_no_rows
from mdstream.history.recent import RecentLimit, format_limit, is_about_recent_data
from mdstream.history.repair import Day, fetch_days, find_short_days, log_short_days
from mdstream.history.request import EVERYTHING, BackfillRequest, Shard, last_complete
from mdstream.history.series import SeriesGate
from mdstream.history.staging import Staging
from mdstream.history.status import Activity, Status
from mdstream.history.store_faults import translate_faults
from mdstream.session.budget import Budget
from mdstream.session.pages import PageRequest, history_request, is_stale_token, pages
from mdstream.session.rest import Body, RestClient
from mdstream.store.folders import check_name
from mdstream.store.query import to_utc
from mdstream.store.rejects import RejectFile
from mdstream.venues.alpaca.parameters import ADJUSTMENT, ASOF, TIMEFRAME

log = logging.getLogger(__name__)

_FIRST_CONTACT_S = 10.0
"""How long the server may take to answer at first. Later on, a lost network is waited for."""
_ATTEMPTS = 100
_FEW = 8
"""If the plan excludes so many symbols, and none is answered, it excludes all."""
_MOST_RESTARTS = 3
"""How often a shard is fetched from the start because the service no longer knows its page token."""


class Backfill:
    """Fetches and stores one request.

    `executor` does the work on pages and files. `on_change` is called with the status whenever it has
    changed.
    """

    # Written while shards are fetched and filed.
    status: Status
    _refused: set[str]
    """Symbols that the service has refused."""
    _recent: RecentLimit
    _shortened: dict[int, int]
    """Up to when the shards are requested that the limit has cut, by id; ns since 1970."""

    # Written as the two kinds of requests begin: for daily bars, for shards.
    _client: RestClient
    _requests_before: int
    """Requests that an earlier client has sent."""

    # Set once by `run`.
    _ledger: Ledger
    _filing: Filing
    _series: SeriesGate

    def __init__(
        self,
        request: BackfillRequest,
        store: Path,
        config: BackfillSettings,
        executor: PageExecutor,
        on_change: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self.status = Status()
        self._request = request
        self._store = store
        self._config = config
        self._executor = executor
        self._budget = Budget(config.budget_per_minute, learns=config.learns_budget)
        self._on_change = on_change
        self._refused = set()
        self._recent = RecentLimit()
        self._shortened = {}
        self._client, self._requests_before = self._make_client(), 0
        self._folder = store / "_mdstream"
        self._staging = Staging(self._folder / "staging")
        self._rejects = RejectFile(self._folder / "rejects" / f"{request.dataset}.jsonl")

    async def run(self) -> Status:
        """Fetch and store the missing rows. Raises `MdstreamError` if the cause is not a single shard."""
        start = time.monotonic()
        try:
            check_name(str(self._store))
            with translate_faults(self._store, self._folder), Ledger(self._folder) as ledger:
                self._ledger = ledger
                self._filing = Filing(self._request, self._store, ledger, self._staging, self._count_stored)
                self._series = SeriesGate(self._request, ledger)
                await asyncio.to_thread(self._filing.settle)
                await self._fetch_all()
        finally:
            self.status.seconds = time.monotonic() - start
            if self.status.unrequested:
                log.warning("%s: %s", self._request.dataset, self.status.unrequested)
        return self.status

    def _count_stored(self, rows: int, repeated: int, files: int) -> None:
        self.status.stored += rows
        self.status.repeated += repeated
        self.status.files += files
        self._on_change(self.status)

    # -- 1: what is left to do

    def _plan(self, gaps: Collection[Shard] = ()) -> list[Progress]:
        """Return the shards of this request that are not fetched yet, in order, and note new ones.

        Those that are asked again because they were empty come last. Shards that are fetched but not stored
        go to the files.
        """
        request, status = self._request, self.status
        again = set(add_work(request, self._ledger, time.time(), gaps))
        left = [*self._find_shards("open"), *self._find_shards("fetched")]
        to_fetch = []
        for progress in left:
            if progress.id in again:
                self._staging.drop(progress)
            if progress.pages and not self._staging.has_all(progress):
                self._restart(progress)
            if progress.fetched:
                self._filing.add(self._series.add(progress))
            else:
                to_fetch.append(progress)
        status.shards, status.fetched = len(left), len(left) - len(to_fetch)
        status.done = float(status.fetched)
        status.already = len(request.symbols) - len({p.shard.symbol for p in left})
        return sort_shards(request, to_fetch)

    def _plan_outdated(self) -> list[Progress]:
        """Return the shards of adjusted series that this run has given another scale in part."""
        symbols = [symbol for symbol in self._request.symbols if symbol not in self.status.failed]
        again = reopen_outdated(self._request, self._ledger, time.time(), symbols)
        to_fetch = [progress for progress in self._find_shards("open") if progress.id in again]
        self._staging.drop(*to_fetch)
        self._series.drop(again)
        self.status.shards += len(to_fetch)
        return to_fetch

    def _find_shards(self, state: str) -> list[Progress]:
        """Return the shards of this request that are in a state, and those that are fetched again."""
        request, symbols = self._request, set(self._request.symbols)
        return [
            progress
            for progress in self._ledger.find(request.dataset, request.variant, state)
            if progress.shard.symbol in symbols and is_wanted(request, progress.shard, progress.replaces)
        ]

    def _restart(self, progress: Progress) -> None:
        self._staging.drop(progress)
        self._ledger.restart(progress)

    # -- 2: pages

    async def _fetch_all(self) -> None:
        days = await self._fetch_days() if self._request.repair else []
        short = await asyncio.to_thread(find_short_days, self._request, self._store, days)
        waiting = deque(await asyncio.to_thread(self._plan, [day.shard for day, _ in short]))
        self._on_change(self.status)
        if waiting or self._series.symbols or not self._filing.is_empty:
            async with self._executor:
                await self._fetch_shards_at_once(waiting)
                if outdated := await asyncio.to_thread(self._plan_outdated):
                    await self._fetch_shards_at_once(deque(outdated))
                self._filing.add(self._series.take_new())
                if not self._filing.is_empty:
                    await self._fetch_shards_at_once(deque())
                self._series.report_unchanged(self.status)
            if self._refused.issuperset(self._request.symbols):
                self.status.until = ""  # nothing is fetched up to then
        if short:
            served = self._recent.last_served(time.time_ns())  # by now, more may be excluded
            days = [day for day in days if day.past <= served]
            short = await asyncio.to_thread(find_short_days, self._request, self._store, days)
            self.status.short = len(short)
            log_short_days(short)

    def _make_client(self) -> RestClient:
        # A network may be away for the whole deadline of a request, however many attempts that takes.
        attempts = max(self._config.fetch.attempts, _ATTEMPTS)
        fetch = msgspec.structs.replace(self._config.fetch, attempts=attempts)
        return RestClient(fetch, self._config.data, self._budget, _FIRST_CONTACT_S)

    async def _fetch_days(self) -> list[Day]:
        """Return the days of this request, and their trades by the service's own count."""
        async with self._client as client:
            found = await fetch_days(client, self._request, self._recent.last_served(time.time_ns()))
        self._count_requests()
        days, self.status.uncounted = found
        return days

    async def _fetch_shards_at_once(self, waiting: deque[Progress]) -> None:
        """Fetch all waiting shards, and write the files."""
        self._client, self._requests_before = self._make_client(), self.status.requests
        self._filing.add(self._series.begin(waiting))
        async with self._client:
            try:
                # A file that cannot be written ends the fetching too.
                async with asyncio.TaskGroup() as files:
                    async with asyncio.TaskGroup() as tasks:
                        for _ in range(min(self._config.fetch.concurrency, len(waiting))):
                            tasks.create_task(self._fetch_shards(waiting, files))
                    self._filing.start_all(self._executor, files)
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None

    @property
    def activity(self) -> Activity:
        """What goes on at this moment."""
        client = self._client
        sent = self._requests_before + client.requests
        return Activity(sent, self._budget.waits_s, client.retries, client.retries_in_s)

    async def _fetch_shards(self, waiting: deque[Progress], files: asyncio.TaskGroup) -> None:
        """Fetch shards until none is waiting."""
        while waiting:
            progress = waiting.popleft()
            symbol = progress.shard.symbol
            if symbol in self._refused:
                continue  # the service would refuse all its shards
            try:
                if self._shorten(progress):
                    await self._fetch(progress)
                    if progress.id in self._shortened:
                        self._count_until(self._shortened[progress.id])
                self._filing.add(self._series.end(symbol))
            except (BadRequestError, EndlessAnswerError, CredentialsError) as error:
                end = self._request.query_end(progress.shard.past)
                if is_about_recent_data(error, error.code) and self._recent.widen(end, time.time_ns()):
                    waiting.appendleft(progress)
                    continue
                if isinstance(error, CredentialsError):
                    raise
                self._refused.add(symbol)
                self.status.failed[symbol] = str(error)
                if isinstance(error, PlanError):
                    self.status.excluded.add(symbol)
                has_none = not (self.status.already or self._client.has_worked)
                is_general = len(self._refused) >= min(_FEW, len(self._request.symbols))
                if isinstance(error, PlanError) and has_none and is_general:
                    raise
            except (ConfigError, NoWorkersError, SharedMemoryError, StoreError, OSError):
                raise
            except MdstreamError as error:
                if self._client.is_given_up:
                    raise
                self.status.failed.setdefault(symbol, str(error))
            self._on_change(self.status)
            await self._filing.start_full(self._executor, files)

    def _shorten(self, progress: Progress) -> bool:
        """Cut off what the plan excludes, for the next run. Return whether anything is left.

        A shard of which there are stored rows stays whole, and waits for the next run.
        """
        until = self._recent.until
        if until is None or not self._recent.excludes(self._request.query_end(progress.shard.past)):
            return True
        past = last_complete(until, self._request.timeframe)
        if not progress.replaces:
            if progress.pages:
                self._restart(progress)
            self._ledger.shorten(progress, past)
            if past > progress.shard.first:
                self._shortened[progress.id] = until
                return True
        self.status.shards -= 1
        self._count_until(until)
        return False

    def _count_until(self, until: int) -> None:
        """Note that the data up to `until` is fetched, and later data is left to the next run."""
        text = format_limit(until)
        self.status.until = min(self.status.until or text, text)

    async def _fetch(self, progress: Progress) -> None:
        """Fetch the missing pages of a shard."""
        status, done, restarts = self.status, 0.0, 0
        while not progress.fetched:
            stage = partial(self._stage, progress)
            try:
                async for receipt in pages(self._client, self._page_request(progress), stage):
                    rejected = progress.rejected + len(receipt.rejects)
                    self._ledger.add_page(
                        progress,
                        receipt.rows,
                        len(receipt.rejects),
                        receipt.page_token,
                        keeps_old=not self._request.is_adjusted,
                    )
                    self._count_requests()
                    status.count_page(receipt)
                    fraction = max(done, progress.fraction(receipt.last_ns))
                    status.done, done = status.done + fraction - done, fraction
                    self._on_change(status)
                    if not (receipt.page_token or progress.fetched):
                        raise UnusableAnswerError(why_no_rows(progress.shard, rejected))
            except BadRequestError as error:
                if not is_stale_token(error, progress.token) or restarts == _MOST_RESTARTS:
                    raise
                log.warning(
                    "%s: the service no longer knows its page token; fetching it from the start",
                    progress.shard.symbol,
                )
                self._restart(progress)
                status.done, done, restarts = status.done - done, 0.0, restarts + 1
            finally:
                self._count_requests()
        status.fetched += 1
        if progress.rows:
            self._filing.add(self._series.add(progress))
        elif progress.replaces > 0:
            why = why_no_rows(progress.shard, progress.rejected)
            log.warning("%s: %s; the stored ones stay", progress.shard.symbol, why)
        elif not progress.rejected:
            status.empty += 1

    def _page_request(self, progress: Progress) -> PageRequest:
        """Return the request for a shard, from its first missing page on."""
        request, shard = self._request, progress.shard
        return history_request(
            request.history,
            request.feed,
            () if shard.symbol == EVERYTHING else (shard.symbol,),
            (shard.first, request.query_end(shard.past)),
            {TIMEFRAME: request.timeframe, ADJUSTMENT: request.adjustment, ASOF: request.asof},
            progress.token,
        )

    async def _stage(self, progress: Progress, body: Body) -> PageReceipt:
        """Let a worker stage the rows of the next page."""
        request, kind, symbol = self._request, self._request.kind, progress.shard.symbol
        ticket = PageTicket(
            request.spec.name,
            request.channel.name,
            kind,
            body.data,
            body.compression,
            body.recv_ns,
            str(self._staging.path(progress, progress.pages)),
            request.row_span(progress.shard),
            request.queried_span(progress.shard),
            () if request.history.rows or symbol == EVERYTHING else (symbol,),
        )
        receipt = await self._executor.stage(ticket)
        if receipt.fault:
            raise UnusableAnswerError(f"unusable page: {receipt.fault}")
        if receipt.rejects:
            shard = progress.shard
            page = f"{request.dataset}, {shard.symbol}, page {progress.pages + 1}"
            rows = (reject_row(kind, each, body.recv_ns) for each in receipt.rejects)
            self._rejects.keep(
                [row._replace(place=f"{page}, {row.place}") for row in rows],
                request.feed,
                f"{request.variant} {shard.symbol} {to_utc(shard.first).isoformat()}",
            )
        self.status.bytes += len(body.data)
        return receipt

    def _count_requests(self) -> None:
        self.status.requests = self.activity.requests
