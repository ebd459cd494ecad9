"""Shards that are fetched become files of the store's table.

    ready, by partition ─► a file's rows, or the end ─► workers join ─► one commit ─► staged pages go

A commit is in the ledger before it is made, and has its number in the table: after a kill between the two,
`settle` sees which happened.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mdstream.errors import StoreError
from mdstream.handoff.page_ticket import JoinTicket
from mdstream.history.executor import PageExecutor
from mdstream.history.ledger import Ledger, Progress
from mdstream.history.request import Request
from mdstream.history.staging import Staging
from mdstream.store.table import NewFile, StoreTable

log = logging.getLogger(__name__)

ROWS_A_FILE = 1_000_000
"""Rows that make a file full; and a worker's memory while it joins them."""

_MOST_STAGED = 8 * ROWS_A_FILE
"""Rows that may be staged before files are made that are not full."""

_ROWS_A_PAGE = 10_000


@dataclass(slots=True)
class _Group:
    """Shards of one partition that become files together."""

    partition: dict[str, str]
    shards: list[Progress] = field(default_factory=list)
    rows: int = 0


class Filing:
    """The files of one request. `stored` is told the rows and files of each commit."""

    # The mutable state: groups by partition that wait for company, and the joins under way.

    def __init__(
        self,
        request: Request,
        store: Path,
        ledger: Ledger,
        staging: Staging,
        stored: Callable[[int, int], None],
    ) -> None:
        self._request = request
        self._ledger = ledger
        self._staging = staging
        self._stored = stored
        self._table = StoreTable(store / request.dataset, request.channel, list(request.partition(0)))
        self._ready: dict[tuple[str, ...], _Group] = {}
        self._joins: set[asyncio.Task[None]] = set()
        self._commits = asyncio.Lock()
        self._commit_failed = False

    def settle(self) -> None:
        """Finish or undo what an earlier run had under way, and drop what nobody needs.

        What the table has lost, to a cut of power or because it was removed, is fetched again. Raises
        `StoreError` where it has more than the ledger knows of, which would be stored twice.
        """
        dataset = self._request.dataset
        (table, version, files), noted = self._table.read_state(), self._ledger.last_commit(dataset)
        known = self._ledger.identity(dataset)
        if version > noted.begun or (table and known and table != known):
            raise StoreError(
                f"store: {self._table.folder} is not what {self._ledger.path} tells of (commit {version} "
                f"of {table}, and {noted.begun} of {known or 'none'}): one of them was removed or "
                "replaced. Bring it back, or remove that table, too, and all of it is fetched again"
            )
        if gone := [path for path in files if not Path(path).exists()]:
            raise StoreError(
                f"store: {len(gone):,} files of {self._table.folder} are gone, as {gone[0]}: bring them "
                "back, or remove that table, and all of it is fetched again"
            )
        if version < noted.done:
            log.warning(
                "%s has lost what was in it (commit %d, %d expected): that is fetched again",
                self._table.folder,
                version,
                noted.done,
            )
            self._ledger.take_back(dataset, version)
        self._ledger.identify(dataset, table)
        for number, paths, commit in self._ledger.unsettled(dataset):
            if commit is not None and commit <= version:
                self._ledger.committed([number])
            else:
                for path in paths.split("\n"):
                    (self._table.folder / path).unlink(missing_ok=True)
                self._ledger.given_up([number])
        self._staging.keep_only(self._ledger.staging())

    def add(self, progress: Progress) -> None:
        """A shard is fetched: put it to the others of its partition."""
        partition = self._request.partition(progress.shard.first)
        group = self._ready.setdefault(tuple(partition.values()), _Group(partition))
        group.shards.append(progress)
        group.rows += progress.rows

    @property
    def is_empty(self) -> bool:
        """Whether no shard waits to become part of a file."""
        return not self._ready

    async def make_full(self, executor: PageExecutor, tasks: asyncio.TaskGroup) -> None:
        """Begin with files that are full, and with more where too much is staged.

        Waits while too many are being made. What fails there, fails in `tasks`.
        """
        for key in [key for key, group in self._ready.items() if group.rows >= ROWS_A_FILE]:
            self._begin(key, executor, tasks)
        if sum(group.rows for group in self._ready.values()) > _MOST_STAGED:
            self._begin(max(self._ready, key=lambda key: self._ready[key].rows), executor, tasks)
        while len(self._joins) > executor.most_jobs:
            await asyncio.wait(self._joins, return_when=asyncio.FIRST_COMPLETED)

    def make_all(self, executor: PageExecutor, tasks: asyncio.TaskGroup) -> None:
        """Begin with all files: no more shards will come."""
        for key in list(self._ready):
            self._begin(key, executor, tasks)

    def _begin(self, key: tuple[str, ...], executor: PageExecutor, tasks: asyncio.TaskGroup) -> None:
        task = tasks.create_task(self._make(self._ready.pop(key), executor))
        self._joins.add(task)
        task.add_done_callback(self._joins.discard)

    async def _make(self, group: _Group, executor: PageExecutor) -> None:
        """Make the files of a group, and commit them."""
        group.shards.sort(key=lambda progress: (progress.shard.symbol, progress.shard.first))
        staged = [str(path) for shard in group.shards for path in self._staging.files(shard)]
        bundles = list(_bundles(staged))
        stamp = f"{time.time_ns():x}"
        paths = [
            self._table.path(group.partition, f"backfill-{stamp}-{part}.zstd.parquet")
            for part in range(len(bundles))
        ]
        number = self._ledger.file(self._request.dataset, "\n".join(paths), [p.id for p in group.shards])
        files = []
        for path, bundle in zip(paths, bundles, strict=True):
            ticket = JoinTicket(
                self._request.spec.name,
                self._request.channel.name,
                tuple(bundle),
                str(self._table.folder / path),
            )
            files.append(NewFile(number, path, group.partition, await executor.join(ticket)))
        rows = sum(file.receipt.rows for file in files)
        if rows != group.rows:
            raise StoreError(f"{rows} rows are staged where {group.rows} were fetched")
        await self._commit(number, files)
        await asyncio.to_thread(self._drop, group.shards)
        self._stored(rows, len(files))

    async def _commit(self, number: int, files: Sequence[NewFile]) -> None:
        async with self._commits:
            if self._commit_failed:  # a later number in the table would make this one count as done
                raise StoreError("an earlier commit failed")
            self._commit_failed = True
            version = self._ledger.committing(self._request.dataset, [number])
            await asyncio.to_thread(self._table.commit, files, version)
            self._ledger.committed([number])
            if not self._ledger.identity(self._request.dataset):
                self._ledger.identify(self._request.dataset, self._table.read_state().id)
            self._commit_failed = False

    def _drop(self, shards: Iterable[Progress]) -> None:
        for progress in shards:
            self._staging.drop(progress)


def _bundles(paths: Sequence[str]) -> Iterable[list[str]]:
    """Staged files, as many together as make a full file."""
    size = ROWS_A_FILE // _ROWS_A_PAGE
    for start in range(0, len(paths), size):
        yield list(paths[start : start + size])
