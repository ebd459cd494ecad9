"""Ledger: what was requested of history, and how far each shard is, in a SQLite file in the store.

    requested ─► open ─(each page)─► open ─(last page)─► fetched ─(joined, committed)─► stored

The pages of a shard are staged one by one, each with the token of the next; an interrupted shard resumes
there. A shard goes into the store's table as a whole or not at all. A commit is noted here before it is
made, and the table keeps its number: after a kill between the two, the table says what happened.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from mdstream.errors import ConfigError, StoreError
from mdstream.history.request import Shard

LEDGER = "ledger.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS shard (
    id INTEGER PRIMARY KEY, dataset TEXT NOT NULL, variant TEXT NOT NULL, symbol TEXT NOT NULL,
    first INTEGER NOT NULL, past INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'open',
    token TEXT NOT NULL DEFAULT '', pages INTEGER NOT NULL DEFAULT 0, rows INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0, file INTEGER
);
CREATE INDEX IF NOT EXISTS shard_of ON shard (dataset, variant, symbol, state);
CREATE INDEX IF NOT EXISTS shard_in ON shard (file);
CREATE TABLE IF NOT EXISTS file (
    id INTEGER PRIMARY KEY, dataset TEXT NOT NULL, path TEXT NOT NULL, version INTEGER,
    done INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS known (dataset TEXT PRIMARY KEY, id TEXT NOT NULL);
"""

_RESTART = "UPDATE shard SET pages = 0, rows = 0, rejected = 0, token = '', state = 'open', file = NULL"


@dataclass(slots=True)
class Progress:
    """Progress of a shard: pages staged, their rows, and the token of the next page."""

    id: int
    shard: Shard
    token: str = ""
    pages: int = 0
    rows: int = 0
    rejected: int = 0
    fetched: bool = False


class Commits(NamedTuple):
    """Numbers of a table's last commits: the last one known to be in it, and the last one begun."""

    done: int
    begun: int


class LedgerView:
    """Reads the ledger of one store, even while a process fills it. Raises `StoreError` if it cannot."""

    _database: sqlite3.Connection

    def __init__(self, folder: Path) -> None:
        # In a read-only folder nobody writes, and SQLite cannot create its files.
        mode = "mode=ro" if os.access(folder, os.W_OK) else "immutable=1"
        address = f"{(folder / LEDGER).absolute().as_uri()}?{mode}"
        try:
            self._database = sqlite3.connect(address, uri=True)
            self._database.execute("SELECT 1 FROM shard LIMIT 1")
        except sqlite3.DatabaseError as error:
            raise StoreError(f"store: {folder / LEDGER} cannot be read: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def shards_of(self, dataset: str, variant: str, symbol: str) -> list[tuple[Shard, str]]:
        """Return the shards of a symbol with their states, by time."""
        rows = self._database.execute(
            "SELECT symbol, first, past, state FROM shard WHERE dataset = ? AND variant = ? AND symbol = ? "
            "ORDER BY first",
            (dataset, variant, symbol),
        )
        return [(Shard(name, first, past), state) for name, first, past, state in rows]

    def density(self, dataset: str, variant: str) -> dict[str, float]:
        """Return rows per nanosecond of each symbol with a fetched shard."""
        rows = self._database.execute(
            "SELECT symbol, sum(rows), sum(past - first) FROM shard "
            "WHERE dataset = ? AND variant = ? AND state != 'open' GROUP BY symbol",
            (dataset, variant),
        )
        return {symbol: count / span for symbol, count, span in rows if span}

    def find(self, dataset: str, variant: str, state: str) -> list[Progress]:
        """Return the shards in a state, by symbol and time."""
        rows = self._database.execute(
            "SELECT id, symbol, first, past, token, pages, rows, rejected FROM shard "
            "WHERE dataset = ? AND variant = ? AND state = ? ORDER BY symbol, first",
            (dataset, variant, state),
        )
        return [
            Progress(number, Shard(*shard), token, pages, count, rejected, state == "fetched")
            for number, *shard, token, pages, count, rejected in rows
        ]


class Ledger(LedgerView):
    """The ledger of one store. Raises `ConfigError` if another process holds it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(f"store: cannot write in {folder.parent}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 32, 0).decode() or "unknown"
            os.close(self._lock)
            raise ConfigError(
                f"store: process {owner} is already filling {folder.parent}; wait for it, or stop it"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        # used by one thread at a time, but not always the same
        self._database = sqlite3.connect(folder / LEDGER, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_SCHEMA)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        os.close(self._lock)

    # -- shards

    def add(self, dataset: str, variant: str, shards: Iterable[Shard]) -> None:
        """Add shards to fetch."""
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO shard (dataset, variant, symbol, first, past) VALUES (?, ?, ?, ?, ?)",
            [(dataset, variant, *shard) for shard in shards],
        )
        self._database.execute("COMMIT")

    def add_page(self, progress: Progress, rows: int, rejected: int, token: str) -> None:
        """Note that a page is staged. Without a token it was the last one."""
        progress.pages += 1
        progress.rows += rows
        progress.rejected += rejected
        progress.token, progress.fetched = token, not token
        state = "open" if token else "fetched" if progress.rows else "stored"
        self._database.execute(
            "UPDATE shard SET pages = ?, rows = ?, rejected = ?, token = ?, state = ? WHERE id = ?",
            (progress.pages, progress.rows, progress.rejected, token, state, progress.id),
        )

    def restart(self, progress: Progress) -> None:
        """Forget the pages of a shard that is not stored."""
        progress.pages = progress.rows = progress.rejected = 0
        progress.token, progress.fetched = "", False
        self._database.execute(f"{_RESTART} WHERE id = ?", (progress.id,))

    # -- files

    def add_files(self, dataset: str, paths: Sequence[str], shards: Sequence[int]) -> int:
        """Note that shards are being joined to files. Return the number of this group of files."""
        self._database.execute("BEGIN")
        number = self._database.execute(
            "INSERT INTO file (dataset, path) VALUES (?, ?)", (dataset, "\n".join(paths))
        ).lastrowid
        assert number is not None
        self._database.executemany(
            "UPDATE shard SET file = ? WHERE id = ?", [(number, shard) for shard in shards]
        )
        self._database.execute("COMMIT")
        return number

    def begin_commit(self, dataset: str, number: int) -> int:
        """Note that a group of files is about to be committed. Return the number of the commit."""
        (last,) = self._database.execute(
            "SELECT max(version) FROM file WHERE dataset = ?", (dataset,)
        ).fetchone()
        version = (last or 0) + 1
        self._database.execute("UPDATE file SET version = ? WHERE id = ?", (version, number))
        # Write it to the disk, or a power cut could leave a commit that the ledger does not know.
        self._database.execute("PRAGMA wal_checkpoint")
        return version

    def last_commits(self, dataset: str) -> Commits:
        """Return the last commits to a dataset's table, 0 if there were none."""
        done, begun = self._database.execute(
            "SELECT max(CASE WHEN done THEN version END), max(version) FROM file WHERE dataset = ?",
            (dataset,),
        ).fetchone()
        return Commits(done or 0, begun or 0)

    def table_id(self, dataset: str) -> str:
        """Return the id of the table that a dataset is stored in; empty if none is noted."""
        row = self._database.execute("SELECT id FROM known WHERE dataset = ?", (dataset,)).fetchone()
        return str(row[0]) if row else ""

    def set_table_id(self, dataset: str, table: str) -> None:
        """Note the id of the table that a dataset is stored in."""
        self._database.execute("INSERT OR REPLACE INTO known VALUES (?, ?)", (dataset, table))

    def undo_commits(self, dataset: str, version: int) -> None:
        """Mark the shards of all commits after `version` as not fetched: the table has lost them."""
        lost = "FROM file WHERE dataset = ? AND version > ? AND done"
        self._database.execute("BEGIN")
        self._database.execute(f"{_RESTART} WHERE file IN (SELECT id {lost})", (dataset, version))
        self._database.execute(f"DELETE {lost}", (dataset, version))
        self._database.execute("COMMIT")

    def finish_commit(self, number: int) -> None:
        """Note that a group of files is in the table."""
        self._database.execute("BEGIN")
        self._database.execute("UPDATE file SET done = 1 WHERE id = ?", (number,))
        self._database.execute("UPDATE shard SET state = 'stored' WHERE file = ?", (number,))
        self._database.execute("COMMIT")

    def drop_files(self, number: int) -> None:
        """Forget a group of files that was never committed. Its shards stay staged."""
        self._database.execute("BEGIN")
        self._database.execute("UPDATE shard SET file = NULL WHERE file = ?", (number,))
        self._database.execute("DELETE FROM file WHERE id = ?", (number,))
        self._database.execute("COMMIT")

    def staged_shards(self) -> list[int]:
        """Return the shards whose staged pages are needed."""
        return [n for (n,) in self._database.execute("SELECT id FROM shard WHERE state != 'stored'")]

    def unfinished_files(self, dataset: str) -> list[tuple[int, list[str], int | None]]:
        """Return files that the last process did not finish: number, paths, and commit if it was begun."""
        rows = self._database.execute(
            "SELECT id, path, version FROM file WHERE dataset = ? AND NOT done ORDER BY id", (dataset,)
        )
        return [(number, paths.split("\n"), version) for number, paths, version in rows]


def find_missing(wanted: Shard, have: Sequence[Shard]) -> list[Shard]:
    """Return the parts of `wanted` that no shard of `have` covers."""
    left, at = [], wanted.first
    for known in sorted(have, key=lambda shard: shard.first):
        if known.past <= at or known.first >= wanted.past:
            continue
        if known.first > at:
            left.append(Shard(wanted.symbol, at, known.first))
        at = max(at, known.past)
    if at < wanted.past:
        left.append(Shard(wanted.symbol, at, wanted.past))
    return left
