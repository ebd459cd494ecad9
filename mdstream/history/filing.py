"""Filing: fetched shards become files of the store's table.

    ready, by partition ─► enough rows, or the end ─► workers join ─► one commit ─► staged pages removed

A commit is noted in the ledger before it is made, and the table keeps its number. After a kill between the
two, `settle` sees which of them happened. Rows that are fetched again are replaced in the same commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mdstream.errors import StoreError
from mdstream.handoff.page_ticket import JoinTicket
from mdstream.history.executor import PageExecutor
from mdstream.history.ledger import Ledger, Progress
from mdstream.history.request import BackfillRequest
from mdstream.history.staging import Staging
from mdstream.store.replacement import OldRows
from mdstream.store.table import NewFile, StoreTable

log = logging.getLogger(__name__)

ROWS_PER_FILE = 1_000_000
"""Rows of a full file; a worker holds them in memory while it joins them."""

_MOST_STAGED = 8 * ROWS_PER_FILE
"""Rows that may be staged before files that are not full are written."""

_ROWS_PER_PAGE = 10_000


@dataclass(slots=True)
class _ShardGroup:
    """Shards that become files together: those of one partition, or whole adjusted series."""

    shards: list[Progress] = field(default_factory=list)
    partitions: set[tuple[str, ...]] = field(default_factory=set)
    rows: int = 0

    @property
    def is_full(self) -> bool:
        return self.rows >= ROWS_PER_FILE * len(self.partitions)


class Filing:
    """Writes the files of one request. `on_commit` is called with each commit's counts.

    These are: rows stored, rows left out because they repeat another one, and files.
    """

    # Written while shards are added and files are written.
    _ready: dict[tuple[str, ...], _ShardGroup]
    """Fetched shards that wait for more, by values of their partition; adjusted series are together."""
    _joins: set[asyncio.Task[None]]
    _commit_failed: bool
    """Whether a commit failed, or is under way."""

    def __init__(
        self,
        request: BackfillRequest,
        store: Path,
        ledger: Ledger,
        staging: Staging,
        on_commit: Callable[[int, int, int], None],
    ) -> None:
        self._request = request
        self._ledger = ledger
        self._staging = staging
        self._on_commit = on_commit
        self._table = StoreTable(store / request.dataset, request.channel, list(request.partition(0)))
        self._ready = {}
        self._joins = set()
        self._commits = asyncio.Lock()
        self._commit_failed = False

    def settle(self) -> None:
        """Finish or undo what an earlier run left under way, and remove pages that nobody needs.

        Shards that the table has lost, by a power cut or because it was removed, are fetched again. Raises
        `StoreError` if the table has more than the ledger knows, because that would be stored twice.
        """
        dataset = self._request.dataset
        (table, version, files), noted = self._table.read_state(), self._ledger.last_commits(dataset)
        known = self._ledger.table_id(dataset)
        if version > noted.begun or (table and known and table != known):
            raise StoreError(
                f"store: {self._table.folder} does not match {self._ledger.path} (commit {version} of "
                f"{table}, expected {noted.begun} of {known or 'none'}): one of them was removed or "
                "replaced. Restore it, or remove the table to fetch everything again"
            )
        if missing := [path for path in files if not Path(path).exists()]:
            raise StoreError(
                f"store: {len(missing):,} files of {self._table.folder} are missing, such as {missing[0]}: "
                "restore them, or remove the table to fetch everything again"
            )
        if version < noted.done:
            log.warning(
                "%s has lost rows (commit %d, expected %d); fetching them again",
                self._table.folder,
                version,
                noted.done,
            )
            self._ledger.undo_commits(dataset, version)
        self._ledger.set_table_id(dataset, table)
        for number, paths, commit in self._ledger.unfinished_files(dataset):
            if commit is not None and commit <= version:
                self._ledger.finish_commit(number)
            else:
                self._table.remove(paths, commit)
                self._ledger.drop_files(number)
        self._staging.keep_only(self._ledger.staged_shards())

    def add(self, shards: Iterable[Progress]) -> None:
        """Add fetched shards to the others of their partitions. Whole adjusted series come together."""
        for progress in shards:
            partition = tuple(self._request.partition(progress.shard.first).values())
            group = self._ready.setdefault(() if self._request.is_adjusted else partition, _ShardGroup())
            group.shards.append(progress)
            group.partitions.add(partition)
            group.rows += progress.rows

    @property
    def is_empty(self) -> bool:
        """Whether no shard waits to become part of a file."""
        return not self._ready

    async def start_full(self, executor: PageExecutor, tasks: asyncio.TaskGroup) -> None:
        """Start to write full files, and others if too much is staged.

        Waits while too many are being written. Errors are raised in `tasks`.
        """
        for key in [key for key, group in self._ready.items() if group.is_full]:
            self._start(key, executor, tasks)
        if sum(group.rows for group in self._ready.values()) > _MOST_STAGED:
            self._start(max(self._ready, key=lambda key: self._ready[key].rows), executor, tasks)
        while len(self._joins) > executor.most_jobs:
            await asyncio.wait(self._joins, return_when=asyncio.FIRST_COMPLETED)

    def start_all(self, executor: PageExecutor, tasks: asyncio.TaskGroup) -> None:
        """Start to write all files: no more shards will come."""
        for key in list(self._ready):
            self._start(key, executor, tasks)

    def _start(self, key: tuple[str, ...], executor: PageExecutor, tasks: asyncio.TaskGroup) -> None:
        task = tasks.create_task(self._write(self._ready.pop(key), executor))
        self._joins.add(task)
        task.add_done_callback(self._joins.discard)

    async def _write(self, group: _ShardGroup, executor: PageExecutor) -> None:
        """Write the files of a group, and commit them."""
        group.shards.sort(key=lambda progress: (progress.shard.symbol, progress.shard.first))
        parts: dict[tuple[str, ...], list[Progress]] = {}
        for progress in group.shards:
            parts.setdefault(tuple(self._request.partition(progress.shard.first).values()), []).append(
                progress
            )
        stamp = f"{time.time_ns():x}"
        planned: list[_Planned] = []
        for shards in parts.values():
            partition = self._request.partition(shards[0].shard.first)
            for bundle in _bundle(self._list_staged(shards)):
                name = f"backfill-{stamp}-{len(planned)}.zstd.parquet"
                planned.append(_Planned(self._table.path(partition, name), partition, bundle))
        number = self._ledger.add_files(
            self._request.dataset, [path for path, *_ in planned], [p.id for p in group.shards]
        )
        files = await self._join(planned, executor)
        if marks := tuple(file.receipt.marks for file in files if file.receipt.marks):
            log.info(
                "%s: the service marked trades between two pages: joining again", self._request.dataset
            )
            files = await self._join(planned, executor, marks)
        rows = sum(file.receipt.rows for file in files)
        repeated = sum(file.receipt.repeated for file in files)
        if rows + repeated != group.rows:
            raise StoreError(f"store: {rows + repeated} rows are staged, but {group.rows} were fetched")
        if repeated:
            log.warning(
                "%s: rows that the service sent again, left out: %d", self._request.dataset, repeated
            )
        if differing := sum(file.receipt.differing for file in files):
            log.warning(
                "%s: repeated rows whose values differ from the first, which is kept: %d",
                self._request.dataset,
                differing,
            )
        for empty in [file for file in files if not file.receipt.rows]:  # all its rows are in earlier ones
            (self._table.folder / empty.path).unlink(missing_ok=True)
            files.remove(empty)
        await self._commit(number, files, group)
        await asyncio.to_thread(self._staging.drop, *group.shards)
        self._on_commit(rows, repeated, len(files))

    async def _join(
        self, planned: Sequence[_Planned], executor: PageExecutor, marks: tuple[bytes, ...] = ()
    ) -> list[NewFile]:
        """Write the planned files, with the `marks` of earlier receipts."""
        stream, channel = self._request.spec.name, self._request.channel.name
        files = []
        for path, partition, bundle in planned:
            into = str(self._table.folder / path)
            ticket = JoinTicket(stream, channel, bundle.paths, into, bundle.before, marks)
            try:
                files.append(NewFile(path, partition, await executor.join(ticket)))
            except FileNotFoundError as error:
                raise StoreError(
                    f"store: {self._table.folder} cannot be written: {error.filename} was removed; "
                    "run the same again to fetch the lost rows"
                ) from error
        return files

    def _list_staged(self, shards: Iterable[Progress]) -> list[_Staged]:
        return [
            _Staged(str(path), progress.shard.symbol)
            for progress in shards
            for path in self._staging.files(progress)
        ]

    async def _commit(self, number: int, files: Sequence[NewFile], group: _ShardGroup) -> None:
        async with self._commits:
            if self._commit_failed:  # a later commit would make this one count as done
                raise StoreError("an earlier commit failed")
            self._commit_failed = True
            version = self._ledger.begin_commit(self._request.dataset, number)
            # Of channels with revisions, `scan` returns the last one, and the older may stay.
            old = [
                OldRows(self._request.partition(p.shard.first), *p.shard)
                for p in group.shards
                if p.replaces and not self._request.channel.revised_by
            ]
            await _run_to_its_end(self._table.commit, files, version, old)
            self._ledger.finish_commit(number)
            if not self._ledger.table_id(self._request.dataset):
                self._ledger.set_table_id(self._request.dataset, self._table.read_state().id)
            self._commit_failed = False


async def _run_to_its_end(work: Callable[..., None], *arguments: object) -> None:
    """Do work in a thread. If this is cancelled, the work still ends first.

    The lock on the store is held meanwhile: the next run must not find a commit that is being made.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        task.exception()  # it ends with this one, and the next run sees what is missing
        raise


class _Staged(NamedTuple):
    """A staged file, and the symbol of its shard."""

    path: str
    symbol: str


class _Bundle(NamedTuple):
    """Staged files that become one file, and those before them of the same symbol as the first of them."""

    paths: tuple[str, ...]
    before: tuple[str, ...]


class _Planned(NamedTuple):
    """A file that is to be written: its path in the table, its partition, and what goes into it."""

    path: str
    partition: dict[str, str]
    bundle: _Bundle


def _bundle(staged: Sequence[_Staged]) -> Iterator[_Bundle]:
    """Split staged files, sorted by symbol, into bundles, each for one full file."""
    size = ROWS_PER_FILE // _ROWS_PER_PAGE
    for start in range(0, len(staged), size):
        symbol = staged[start].symbol
        before = tuple(path for path, other in staged[:start] if other == symbol)
        yield _Bundle(tuple(path for path, _ in staged[start : start + size]), before)
