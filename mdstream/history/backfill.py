"""Fetching the past: hundreds of requests under way, all cores decoding, memory bounded.

    shards, urgent ones first ─► a page ─► a worker stages it ─► its token ─► the next page ─┐
       ▲ as many at a time as requests may be under way                        └─ last ─► fetched
                                                       ready, by partition ◄────────────────┘
                                                             │ a file's rows, or the end
                                              workers join ──┴─► one commit ─► staged files go

1. What earlier runs have left is settled: commits that were under way, pages that were staged.
2. Each shard is fetched page after page, for a page names the next; many shards are fetched at once.
3. Whatever ends the process, the ledger and the table say how far it came, and the next run goes on there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import shutil
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa

from mdstream.config import Config
from mdstream.errors import ConfigError, CredentialsError, MdstreamError, ServerError, StoreError
from mdstream.handoff.pages import JoinTicket, PageTicket
from mdstream.history.ledger import Ledger, Progress, missing
from mdstream.history.request import Request, Shard, rfc3339
from mdstream.history.table import NewFile, StoreTable
from mdstream.pool import WorkerPool, compile_kernels, do_without_kernels, one_a_core
from mdstream.rejects import RejectFile
from mdstream.session.budget import Budget
from mdstream.session.rest import BadRequestError, RestClient

log = logging.getLogger(__name__)

ROWS_A_FILE = 1_000_000
"""Rows that make a file full; and a worker's memory while it joins them."""

_MOST_STAGED = 8 * ROWS_A_FILE
"""Rows that may be staged before files are made that are not full."""

_FREE_PLAN = 200
"""Requests a minute, until the service has told how many it allows."""

_ATTEMPTS = 100
_TASK_TIMEOUT_S = 120.0
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


class Estimate(NamedTuple):
    """What a request would take, before it is made."""

    shards: int
    """To fetch; each is one request or more."""
    already: int
    """Symbols that are complete."""
    seconds: float
    """What so many requests take at the budget known."""


@dataclass(slots=True)
class _Group:
    """Shards of one partition that become files together."""

    partition: dict[str, str]
    shards: list[Progress] = field(default_factory=list)
    rows: int = 0


class Backfill:
    """One request, carried out. `tell` is called whenever the status has changed."""

    # The mutable state: the status, groups by partition that wait for company, and files to commit.

    def __init__(
        self,
        request: Request,
        store: Path,
        config: Config,
        tell: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self.status = Status()
        self._request = request
        self._store = store
        self._config = config
        self._tell = tell
        self._table = StoreTable(store, request)
        self._ready: dict[tuple[str, ...], _Group] = {}
        self._commits = asyncio.Lock()
        self._commit_failed = False
        self._joins: set[asyncio.Task[None]] = set()
        self._refused: dict[str, str] = {}
        self._rejects = RejectFile(store / "_mdstream" / "rejects" / f"{request.dataset}.jsonl")

    async def run(self) -> Status:
        """Fetch and store what is missing. Raises `MdstreamError` for what no shard can be blamed for."""
        began = time.monotonic()
        try:
            with Ledger(self._store / "_mdstream") as ledger:
                self._ledger = ledger
                await asyncio.to_thread(self._settle)
                await self._fetch_all()
        except sqlite3.OperationalError as error:
            raise StoreError(f"store: the ledger cannot be written: {error}") from error
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise StoreError(
                    f"store: no room in {self._store}; free some and run this again: it goes on"
                ) from error
            raise
        finally:
            self.status.seconds = time.monotonic() - began
        return self.status

    # -- 1: what earlier runs have left

    def _settle(self) -> None:
        """Finish or undo what was under way, and drop what nobody needs."""
        ledger, dataset = self._ledger, self._request.dataset
        version = self._table.version()
        for number, paths, commit in ledger.unsettled(dataset):
            if commit is not None and commit <= version:
                ledger.committed([number])
            else:
                for path in paths.split("\n"):
                    (self._table.folder / path).unlink(missing_ok=True)
                ledger.given_up([number])
        needed = {str(number) for number in ledger.staging()}
        staging = ledger.folder / "staging"
        for folder in staging.iterdir() if staging.exists() else ():
            if folder.name not in needed:
                shutil.rmtree(folder)

    def _plan(self) -> list[Progress]:
        """The shards of this request that are not fetched, in their order; new ones are noted.

        Those that are fetched and not stored are made ready.
        """
        request, ledger, status = self._request, self._ledger, self.status
        plan_shards(request, ledger)
        order = {symbol: number for number, symbol in enumerate(request.symbols)}
        left = [*self._left("open"), *self._left("fetched")]
        whole = [p for p in left if p.fetched and self._is_staged(p)]
        open_ = [p for p in left if not p.fetched and (not p.pages or self._is_staged(p))]
        for progress in left:
            if progress not in whole and progress not in open_:
                self._begin_again(progress)
                open_.append(progress)
        for progress in whole:
            self._make_ready(progress)
        status.shards, status.fetched, status.done = len(left), len(whole), float(len(whole))
        status.already = len(order) - len({p.shard.symbol for p in left})
        return sorted(
            open_,
            key=lambda p: (
                p.shard.symbol not in request.urgent,
                p.shard.first,
                order[p.shard.symbol],
            ),
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

    def _is_staged(self, progress: Progress) -> bool:
        """Whether all rows that the ledger tells of are there: a power cut may have taken some."""
        rows = 0
        for path in self._staged(progress):
            try:
                rows += pa.ipc.open_file(pa.memory_map(str(path))).read_all().num_rows
            except pa.ArrowInvalid:
                return False
        return rows == progress.rows

    def _staged(self, progress: Progress) -> list[Path]:
        """The staged files of a shard; a page without rows has none."""
        paths = (self._ledger.staged(progress.id, page) for page in range(progress.pages))
        return [path for path in paths if path.exists()]

    # -- 2: pages

    async def _fetch_all(self) -> None:
        waiting = deque(await asyncio.to_thread(self._plan))
        self._tell(self.status)
        if not waiting and not self._ready:
            return
        budget, patient = Budget(_FREE_PLAN, learns=True), _patient(self._config)
        await _compile()
        async with self._pool() as pool, RestClient(patient, budget) as client:
            self._pool_places = asyncio.Semaphore(2 * max(1, pool.size))
            self._workers, self._client = pool, client
            try:
                # A file that cannot be made ends the fetching, too.
                async with asyncio.TaskGroup() as self._files:
                    async with asyncio.TaskGroup() as tasks:
                        for _ in range(min(self._config.fetch.concurrency, len(waiting))):
                            tasks.create_task(self._take(waiting))
                    for key in list(self._ready):
                        self._join_soon(key)
            except BaseExceptionGroup as errors:
                raise _first(errors) from None

    @asynccontextmanager
    async def _pool(self) -> AsyncIterator[WorkerPool]:
        """The pool, while it starts: the first requests go out meanwhile."""
        pool = WorkerPool(one_a_core(self._config.workers), _TASK_TIMEOUT_S)
        self._starting = asyncio.ensure_future(pool.start(bars=False))
        try:
            yield pool
        finally:
            self._starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # who waits for it has it
                await self._starting
            await pool.close()

    async def _take(self, waiting: deque[Progress]) -> None:
        """Fetch shards until none waits."""
        while waiting:
            progress = waiting.popleft()
            symbol = progress.shard.symbol
            if symbol in self._refused:
                continue  # the service will say the same of all its shards
            try:
                await self._fetch(progress)
            except BadRequestError as error:
                self._refused[symbol] = self.status.failed[symbol] = str(error)
            except CredentialsError:
                raise
            except (StoreError, OSError):
                raise
            except MdstreamError as error:
                self.status.failed.setdefault(symbol, str(error))
            self._tell(self.status)
            await self._joined()

    async def _fetch(self, progress: Progress) -> None:
        seen: set[str] = set()
        shard, done = progress.shard, 0.0
        while True:
            try:
                body = await self._client.get(self._path(), self._parameters(progress))
            except BadRequestError as error:
                if not progress.token or "token" not in str(error):
                    raise
                log.warning(
                    "%s: its page token is no longer known; from the start", progress.shard.symbol
                )
                self._begin_again(progress)
                self.status.done, done = self.status.done - done, 0.0
                seen.clear()
                continue
            finally:
                self.status.requests = self._client.requests
            number = progress.pages
            path = self._ledger.staged(progress.id, number)
            history = self._request.history
            ticket = PageTicket(
                self._request.spec.name, self._request.channel.name, history.kind, body.data,
                body.packing, body.recv_ns, str(path),
            )  # fmt: skip
            async with self._pool_places:
                await asyncio.shield(self._starting)
                receipt = await self._workers.stage(ticket)
            if receipt.fault:
                raise ServerError(f"unusable page: {receipt.fault}")
            if receipt.page_token in seen:
                raise ServerError(f"page token {receipt.page_token[:40]!r} came twice")
            seen.add(receipt.page_token)
            if receipt.rejects:
                reasons = [(reject.message, reject.reason) for reject in receipt.rejects]
                self._rejects.keep(receipt.plain, history.kind, body.recv_ns, reasons)
            self._ledger.page(progress, receipt.rows, len(receipt.rejects), receipt.page_token)
            status = self.status
            status.pages += 1
            status.rows += receipt.rows
            status.rejected += len(receipt.rejects)
            status.bytes += len(body.data)
            now = 1.0
            if receipt.page_token:
                now = (receipt.last_ns - shard.first) / (shard.past - shard.first)
                now = min(1.0, max(done, now))
            status.done, done = status.done + now - done, now
            if not receipt.page_token:
                break
            self._tell(status)
        self.status.fetched += 1
        if progress.rows:
            key = self._make_ready(progress)
            if self._ready[key].rows >= ROWS_A_FILE:
                self._join_soon(key)

    def _begin_again(self, progress: Progress) -> None:
        shutil.rmtree(self._ledger.staged(progress.id, 0).parent, ignore_errors=True)
        self._ledger.begin_again(progress)

    def _path(self) -> str:
        return self._request.history.path.format(feed=self._request.feed)

    def _parameters(self, progress: Progress) -> dict[str, str]:
        request, history, shard = self._request, self._request.history, progress.shard
        found = {
            **history.fixed,
            "symbols": shard.symbol,
            "start": rfc3339(shard.first),
            "end": rfc3339(shard.past - 1),  # the service takes both ends as inside
            "limit": str(history.limit),
            "sort": "asc",
        }
        if history.feed_parameter:
            found["feed"] = request.feed
        for name in ("timeframe", "adjustment"):
            if value := getattr(request, name):
                found[name] = value
        if progress.token:
            found["page_token"] = progress.token
        return found

    # -- 3: files and commits

    def _make_ready(self, progress: Progress) -> tuple[str, ...]:
        """Put a shard that is fetched to the others of its partition; which that is."""
        partition = self._request.partition(progress.shard.first)
        key = tuple(partition.values())
        group = self._ready.setdefault(key, _Group(partition))
        group.shards.append(progress)
        group.rows += progress.rows
        return key

    def _join_soon(self, key: tuple[str, ...]) -> None:
        task = self._files.create_task(self._join(self._ready.pop(key)))
        self._joins.add(task)
        task.add_done_callback(self._joins.discard)

    async def _joined(self) -> None:
        """Make files of what is staged beyond measure, and wait while too many are being made."""
        staged = sum(group.rows for group in self._ready.values())
        if staged > _MOST_STAGED:
            self._join_soon(max(self._ready, key=lambda key: self._ready[key].rows))
        while len(self._joins) > 2 * max(1, self._workers.size):
            await asyncio.wait(self._joins, return_when=asyncio.FIRST_COMPLETED)

    async def _join(self, group: _Group) -> None:
        """Make the files of a group, and commit them."""
        group.shards.sort(key=lambda progress: (progress.shard.symbol, progress.shard.first))
        bundles = list(_bundles(self._staged_rows(group)))
        stamp = f"{time.time_ns():x}"
        paths = [
            self._table.path(group.partition, f"backfill-{stamp}-{part}.zstd.parquet")
            for part in range(len(bundles))
        ]
        number = self._ledger.file(
            self._request.dataset, "\n".join(paths), [p.id for p in group.shards]
        )
        files = []
        for path, bundle in zip(paths, bundles, strict=True):
            ticket = JoinTicket(
                self._request.spec.name, self._request.channel.name, tuple(bundle),
                str(self._table.folder / path),
            )  # fmt: skip
            async with self._pool_places:
                await asyncio.shield(self._starting)
                receipt = await self._workers.join(ticket)
            files.append(NewFile(number, path, group.partition, receipt))
        rows = sum(file.receipt.rows for file in files)
        if rows != group.rows:
            raise StoreError(f"{rows} rows are staged where {group.rows} were fetched")
        async with self._commits:
            if self._commit_failed:  # a later number in the table would make this one count as done
                raise StoreError("an earlier commit failed")
            self._commit_failed = True
            version = self._ledger.committing(self._request.dataset, [number])
            await asyncio.to_thread(self._table.commit, files, version)
            self._ledger.committed([number])
            self._commit_failed = False
        await asyncio.to_thread(self._drop_staged, group.shards)
        self.status.stored += rows
        self.status.files += len(files)
        self._tell(self.status)

    def _staged_rows(self, group: _Group) -> list[str]:
        return [str(path) for progress in group.shards for path in self._staged(progress)]

    def _drop_staged(self, shards: Iterable[Progress]) -> None:
        for progress in shards:
            shutil.rmtree(self._ledger.staged(progress.id, 0).parent, ignore_errors=True)


def plan_shards(request: Request, ledger: Ledger) -> None:
    """Note the shards of a request that nobody has asked for before."""
    known = {
        symbol: [shard for shard, _ in ledger.known(request.dataset, request.variant, symbol)]
        for symbol in request.symbols
    }
    new: list[Shard] = []
    for shard in request.shards():
        new += missing(shard, known[shard.symbol])
    ledger.add(request.dataset, request.variant, new)


def estimate(request: Request, store: Path, per_minute: int = _FREE_PLAN) -> Estimate:
    """What a request would take. Nothing is fetched, and nothing written where there is no store yet."""
    stored: dict[str, list[Shard]] = {}
    if (store / "_mdstream").exists():
        with Ledger(store / "_mdstream") as ledger:
            for symbol in request.symbols:
                every = ledger.known(request.dataset, request.variant, symbol)
                stored[symbol] = [shard for shard, state in every if state == "stored"]
    left = [
        part for shard in request.shards() for part in missing(shard, stored.get(shard.symbol, ()))
    ]
    symbols = {shard.symbol for shard in left}
    minutes = max(0, len(left) - per_minute) / per_minute
    return Estimate(len(left), len(request.symbols) - len(symbols), minutes * 60)


def check(request: Request, store: Path, config: Config) -> None:
    """Refuse what cannot come to anything. Raises `ConfigError`."""
    if ":/" in str(store):
        raise ConfigError(
            f"store {str(store)!r}: a backfill fills a folder; an object store takes what is recorded"
        )
    if config.simulated and not request.spec.always_open:
        raise ConfigError(
            "no keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY, or name a server, as --data-url "
            "http://127.0.0.1:8765 (mdstream simulate)"
        )


def _patient(config: Config) -> Config:
    """A network may be away for as long as a request may take: its deadline decides, not its attempts."""
    fetch = msgspec.structs.replace(config.fetch, attempts=max(config.fetch.attempts, _ATTEMPTS))
    return msgspec.structs.replace(config, fetch=fetch)


async def _compile() -> None:
    """The first use of a version on a machine compiles the decoders."""
    try:
        compiling = compile_kernels()
        if compiling is None:
            return
        log.warning("compiling the decoders for this machine: half a minute, once")
        try:
            _, told = await asyncio.to_thread(compiling.communicate)
        except asyncio.CancelledError:
            compiling.kill()
            raise
        why = told.strip().rpartition("\n")[2] if compiling.returncode else ""
    except OSError as error:
        why = f"they cannot be kept on disk: {error.strerror or error}"
    if why:
        log.warning("no compiled decoders: %s; the library decodes, much slower", why)
        do_without_kernels()


def _bundles(paths: Sequence[str]) -> Iterable[list[str]]:
    """Staged files, as many together as make a full file: pages hold 10,000 rows at most."""
    size = ROWS_A_FILE // 10_000
    for start in range(0, len(paths), size):
        yield list(paths[start : start + size])


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group, whatever it is nested in."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
