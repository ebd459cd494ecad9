"""Fetching the past: hundreds of requests under way, all cores decoding, memory bounded.

    shards, urgent ones first ─► a page ─► a worker stages it ─► its token ─► the next page ─┐
       ▲ as many at a time as requests may be under way                        └─ last ─► filing

1. What earlier runs have left is settled: commits that were under way, pages that were staged.
2. Each shard is fetched page after page, for a page names the next; many shards are fetched at once.
3. Whatever ends the process, the ledger and the table say how far it came, and the next run goes on there.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from mdstream.config import HistoryConfig
from mdstream.errors import (
    BadRequestError,
    CredentialsError,
    MdstreamError,
    NoWorkersError,
    ServerError,
    StoreError,
    first_error,
)
from mdstream.handoff.page_ticket import PageReceipt, PageTicket
from mdstream.history.executor import PageExecutor
from mdstream.history.filing import Filing
from mdstream.history.ledger import LEDGER, Ledger, Progress
from mdstream.history.plan import note_shards
from mdstream.history.request import EVERYTHING, Request
from mdstream.history.staging import Staging
from mdstream.session.budget import Budget
from mdstream.session.pages import PageRequest, history_request, is_stale_token, pages
from mdstream.session.rest import Body, RestClient
from mdstream.store.rejects import RejectFile
from mdstream.venues.alpaca.parameters import ADJUSTMENT, TIMEFRAME

log = logging.getLogger(__name__)

_FIRST_CONTACT_S = 10.0
"""A server that does not answer from the start is not one whose network was lost."""
_ATTEMPTS = 100
_MOST_RESTARTS = 3
"""How often a shard is fetched from the start because its page token is no longer known."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@dataclass(slots=True)
class Status:
    """How far a backfill has come."""

    shards: int = 0
    """Of this request, those that earlier runs have stored not among them."""
    fetched: int = 0
    done: float = 0.0
    """Shards fetched, with those that are so in part, by the time that their last row has reached."""
    pages: int = 0
    rows: int = 0
    """Fetched in this run."""
    stored: int = 0
    """Rows that came into the table in this run, whoever fetched them."""
    rejected: int = 0
    requests: int = 0
    bytes: int = 0
    """Of the pages, as they came."""
    files: int = 0
    already: int = 0
    """Symbols that were complete before."""
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    """Symbol → why it is not complete."""

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is in the store."""
        return not self.failed and self.fetched == self.shards


class Backfill:
    """One request, carried out. `executor` does the work on pages and files; `tell` is called whenever the
    status has changed.
    """

    # Written while shards are fetched and filed.
    status: Status
    _refused: set[str]
    """Symbols that the service has refused."""

    # Set once by `run`.
    _ledger: Ledger
    _filing: Filing
    _client: RestClient

    def __init__(
        self,
        request: Request,
        store: Path,
        config: HistoryConfig,
        executor: PageExecutor,
        tell: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self.status = Status()
        self._request = request
        self._store = store
        self._config = config
        self._executor = executor
        self._budget = Budget(config.budget_per_minute, learns=config.learns_budget)
        self._tell = tell
        self._refused = set()
        self._folder = store / "_mdstream"
        self._staging = Staging(self._folder / "staging")
        self._rejects = RejectFile(self._folder / "rejects" / f"{request.dataset}.jsonl")

    async def run(self) -> Status:
        """Fetch and store what is missing. Raises `MdstreamError` for what no shard can be blamed for."""
        began = time.monotonic()
        try:
            with Ledger(self._folder) as ledger:
                self._ledger = ledger
                self._filing = Filing(self._request, self._store, ledger, self._staging, self._stored)
                await asyncio.to_thread(self._filing.settle)
                await self._fetch_all()
        except sqlite3.OperationalError as error:
            raise StoreError(f"store: {self._folder / LEDGER} cannot be written: {error}") from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"store: {self._folder / LEDGER} is damaged: {error}. Bring it back, or remove "
                f"{self._folder} and the tables beside it, and all of it is fetched again"
            ) from error
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise StoreError(f"store: no room in {self._store}: free some") from error
            raise
        finally:
            self.status.seconds = time.monotonic() - began
        return self.status

    def _stored(self, rows: int, files: int) -> None:
        self.status.stored += rows
        self.status.files += files
        self._tell(self.status)

    # -- 1: what is left to do

    def _plan(self) -> list[Progress]:
        """The shards of this request that are not fetched, in their order; new ones are noted.

        Those that are fetched and not stored go to the files.
        """
        request, status = self._request, self.status
        note_shards(request, self._ledger)
        left = [*self._left("open"), *self._left("fetched")]
        to_fetch = []
        for progress in left:
            if progress.pages and not self._staging.has_all(progress):
                self._begin_again(progress)
            if progress.fetched:
                self._filing.add(progress)
            else:
                to_fetch.append(progress)
        status.shards, status.fetched = len(left), len(left) - len(to_fetch)
        status.done = float(status.fetched)
        status.already = len(request.symbols) - len({p.shard.symbol for p in left})
        order = {symbol: number for number, symbol in enumerate(request.symbols)}
        return sorted(
            to_fetch,
            key=lambda p: (p.shard.symbol not in request.urgent, p.shard.first, order[p.shard.symbol]),
        )

    def _left(self, state: str) -> list[Progress]:
        """The shards of a state that this request is about."""
        request, wanted = self._request, set(self._request.symbols)
        return [
            progress
            for progress in self._ledger.in_state(request.dataset, request.variant, state)
            if progress.shard.symbol in wanted
            and progress.shard.first < request.past
            and progress.shard.past > request.first
        ]

    def _begin_again(self, progress: Progress) -> None:
        self._staging.drop(progress)
        self._ledger.begin_again(progress)

    # -- 2: pages

    async def _fetch_all(self) -> None:
        waiting = deque(await asyncio.to_thread(self._plan))
        self._tell(self.status)
        if not waiting and self._filing.is_empty:
            return
        # A network may be away for as long as a request may take: its deadline decides, not its attempts.
        attempts = max(self._config.fetch.attempts, _ATTEMPTS)
        patient = msgspec.structs.replace(self._config.fetch, attempts=attempts)
        client = RestClient(patient, self._config.data, self._budget, _FIRST_CONTACT_S)
        async with self._executor, client as self._client:
            try:
                # A file that cannot be made ends the fetching, too.
                async with asyncio.TaskGroup() as files:
                    async with asyncio.TaskGroup() as tasks:
                        for _ in range(min(self._config.fetch.concurrency, len(waiting))):
                            tasks.create_task(self._take(waiting, files))
                    self._filing.make_all(self._executor, files)
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None

    @property
    def waits_s(self) -> float:
        """Seconds until the budget lets the next request go."""
        return self._budget.waits_s

    async def _take(self, waiting: deque[Progress], files: asyncio.TaskGroup) -> None:
        """Fetch shards until none waits."""
        while waiting:
            progress = waiting.popleft()
            symbol = progress.shard.symbol
            if symbol in self._refused:
                continue  # the service will say the same of all its shards
            try:
                await self._fetch(progress)
            except BadRequestError as error:
                self._refused.add(symbol)
                self.status.failed[symbol] = str(error)
            except (CredentialsError, NoWorkersError, StoreError, OSError):
                raise
            except MdstreamError as error:
                if self._client.is_nobody_there:
                    raise
                self.status.failed.setdefault(symbol, str(error))
            self._tell(self.status)
            await self._filing.make_full(self._executor, files)

    async def _fetch(self, progress: Progress) -> None:
        """Fetch what is missing of a shard, page after page."""
        status, done, restarts = self.status, 0.0, 0
        while not progress.fetched:
            stage = partial(self._stage, progress)
            try:
                async for receipt in pages(self._client, self._page_request(progress), stage):
                    self._ledger.page(progress, receipt.rows, len(receipt.rejects), receipt.page_token)
                    self._count(receipt)
                    now = max(done, _part(progress, receipt))
                    status.done, done = status.done + now - done, now
                    self._tell(status)
            except BadRequestError as error:
                if not is_stale_token(error, progress.token) or restarts == _MOST_RESTARTS:
                    raise
                log.warning("%s: its page token is no longer known; from the start", progress.shard.symbol)
                self._begin_again(progress)
                status.done, done, restarts = status.done - done, 0.0, restarts + 1
            finally:
                status.requests = self._client.requests
        status.fetched += 1
        if progress.rows:
            self._filing.add(progress)

    def _page_request(self, progress: Progress) -> PageRequest:
        """What is to be asked for, from the page on that is missing."""
        request, shard = self._request, progress.shard
        return history_request(
            request.history,
            request.feed,
            () if shard.symbol == EVERYTHING else (shard.symbol,),
            (shard.first, request.until(shard.past)),
            {TIMEFRAME: request.timeframe, ADJUSTMENT: request.adjustment},
            progress.token,
        )

    async def _stage(self, progress: Progress, body: Body) -> PageReceipt:
        """Have the rows of the next page staged."""
        request, kind = self._request, self._request.kind
        ticket = PageTicket(
            request.spec.name,
            request.channel.name,
            kind,
            body.data,
            body.packing,
            body.recv_ns,
            str(self._staging.path(progress, progress.pages)),
            request.kept(progress.shard),
        )
        receipt = await self._executor.stage(ticket)
        if receipt.fault:
            raise ServerError(f"unusable page: {receipt.fault}")
        if receipt.rejects:
            reasons = [(reject.message, reject.reason) for reject in receipt.rejects]
            self._rejects.keep(receipt.plain, kind, body.recv_ns, reasons)
        self.status.bytes += len(body.data)
        return receipt

    def _count(self, receipt: PageReceipt) -> None:
        self.status.requests = self._client.requests
        self.status.pages += 1
        self.status.rows += receipt.rows
        self.status.rejected += len(receipt.rejects)


def _part(progress: Progress, receipt: PageReceipt) -> float:
    """How much of a shard is fetched, by the time that the last row of its last page has reached."""
    if progress.fetched:
        return 1.0
    shard = progress.shard
    return min(1.0, (receipt.last_ns - shard.first) / (shard.past - shard.first))
