"""Ledger: what was requested of history, and how far each shard is, in a SQLite file in the store.

    requested ─► open ─(each page)─► open ─(last page)─► fetched ─(joined, committed)─► stored
                  ▲                         └─(without rows)─► empty                       │
                  └────────────(asked again: `history.plan` says when)──────────┴──────────┘

The pages of a shard are staged one by one, each with the token of the next; an interrupted shard resumes
there. A shard goes into the store's table as a whole or not at all. A commit is noted here before it is
made, and the table keeps its number: after a kill between the two, the table says what happened.

A stored shard that is fetched again keeps its old rows until the new ones are committed. If the service has
none any more, the old ones stay.

Ledgers of version 0.2 have no time of asking, and call empty shards stored. When one is opened, its empty
shards become `empty` as of that moment, so that they are asked again; nothing else changes.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
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
    rejected INTEGER NOT NULL DEFAULT 0, file INTEGER,
    asked INTEGER NOT NULL DEFAULT 0, empty_since INTEGER NOT NULL DEFAULT 0,
    replaces INTEGER NOT NULL DEFAULT 0
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

UNKNOWN = -1
"""Number of old rows of a shard if the table may have some, but has lost commits."""

_ADDED = ("asked", "empty_since", "replaces")
"""Columns that ledgers of version 0.2 lack."""


@dataclass(slots=True)
class Progress:
    """Progress of a shard: pages staged, their rows, and the token of the next page."""

    id: int
    shard: Shard
    token: str = ""
    pages: int = 0
    rows: int = 0
    rejected: int = 0
    empty_since: int = 0
    """Unix time at which the shard was first found empty; 0 if it was not."""
    replaces: int = 0
    """Rows that the table has of the shard from when it was fetched before; `UNKNOWN`: perhaps some."""
    fetched: bool = False

    def fraction(self, last_ns: int) -> float:
        """Return the fetched fraction of the shard, by the time that its last row has reached."""
        if self.fetched:
            return 1.0
        return min(1.0, (last_ns - self.shard.first) / (self.shard.past - self.shard.first))


class KnownShard(NamedTuple):
    """A shard that the ledger has."""

    id: int
    shard: Shard
    state: str
    """`open`, `fetched`, `stored` or `empty`."""
    rows: int
    asked: int
    """Unix time of its first page; 0 if that is unknown."""
    empty_since: int
    replaces: int


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
            if missing := _missing_columns(self._database):
                added = ", ".join(f"0 AS {name}" for name in missing)
                self._database.execute(f"CREATE TEMP VIEW shard AS SELECT *, {added} FROM main.shard")
            self._database.execute("SELECT 1 FROM shard LIMIT 1")
        except sqlite3.DatabaseError as error:
            raise StoreError(f"store: {folder / LEDGER} cannot be read: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def shards_of(self, dataset: str, variant: str, symbol: str) -> list[KnownShard]:
        """Return the shards of a symbol, by time."""
        rows = self._database.execute(
            "SELECT id, symbol, first, past, state, rows, asked, empty_since, replaces FROM shard "
            "WHERE dataset = ? AND variant = ? AND symbol = ? ORDER BY first",
            (dataset, variant, symbol),
        )
        return [
            KnownShard(number, Shard(name, first, past), *more) for number, name, first, past, *more in rows
        ]

    def variants(self, dataset: str) -> list[str]:
        """Return the variants of a dataset."""
        rows = self._database.execute("SELECT DISTINCT variant FROM shard WHERE dataset = ?", (dataset,))
        return [variant for (variant,) in rows]

    def symbols_of(self, dataset: str, variant: str) -> set[str]:
        """Return the symbols of which there are rows."""
        rows = self._database.execute(
            "SELECT DISTINCT symbol FROM shard WHERE dataset = ? AND variant = ? AND rows + replaces > 0",
            (dataset, variant),
        )
        return {symbol for (symbol,) in rows}

    def density(self, dataset: str, variant: str) -> dict[str, float]:
        """Return rows per nanosecond of each symbol with a fetched shard."""
        rows = self._database.execute(
            "SELECT symbol, sum(rows), sum(past - first) FROM shard "
            "WHERE dataset = ? AND variant = ? AND state IN ('fetched', 'stored') GROUP BY symbol",
            (dataset, variant),
        )
        return {symbol: count / span for symbol, count, span in rows if span}

    def find(self, dataset: str, variant: str, state: str) -> list[Progress]:
        """Return the shards in a state, by symbol and time."""
        rows = self._database.execute(
            "SELECT id, symbol, first, past, token, pages, rows, rejected, empty_since, replaces "
            "FROM shard WHERE dataset = ? AND variant = ? AND state = ? ORDER BY symbol, first",
            (dataset, variant, state),
        )
        return [
            Progress(number, Shard(*shard), token, pages, count, rejected, since, old, state == "fetched")
            for number, *shard, token, pages, count, rejected, since, old in rows
        ]


def _missing_columns(database: sqlite3.Connection) -> list[str]:
    """Return the columns of shards that this ledger lacks; none if it has no shards yet."""
    names = {name for _, name, *_ in database.execute("PRAGMA main.table_info(shard)")}
    return [name for name in _ADDED if names and name not in names]


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
        self._migrate()
        self._database.executescript(_SCHEMA)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        os.close(self._lock)

    def _migrate(self) -> None:
        """Give a ledger of version 0.2 the columns that it lacks."""
        if missing := _missing_columns(self._database):
            self._database.execute("BEGIN")
            for name in missing:
                self._database.execute(f"ALTER TABLE shard ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0")
            self._database.execute(
                "UPDATE shard SET state = 'empty', empty_since = ? WHERE state = 'stored' AND rows = 0",
                (int(time.time()),),
            )
            self._database.execute("COMMIT")

    # -- shards

    def add(self, dataset: str, variant: str, shards: Iterable[Shard]) -> None:
        """Add shards to fetch."""
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO shard (dataset, variant, symbol, first, past) VALUES (?, ?, ?, ?, ?)",
            [(dataset, variant, *shard) for shard in shards],
        )
        self._database.execute("COMMIT")

    def add_page(
        self, progress: Progress, rows: int, rejected: int, token: str, *, keeps_old: bool = True
    ) -> None:
        """Note that a page is staged. Without a token it was the last one.

        If there are no rows in the end, those that the table has stay; unless `keeps_old`, the shard is not
        fetched then, because old rows may not be beside new ones of its series.
        """
        now = int(time.time())
        asked = "" if progress.pages else f", asked = {now}"
        progress.pages += 1
        progress.rows += rows
        progress.rejected += rejected
        progress.token, progress.fetched = token, not token
        state = "open" if token else "fetched" if progress.rows else "empty"
        if state == "empty" and progress.replaces > 0:
            if not keeps_old:
                self.restart(progress)
                return
            state = "stored"
        progress.empty_since = (progress.empty_since or now) if state == "empty" else 0
        kept = progress.replaces if state == "stored" else progress.rows
        left = progress.replaces if state in ("open", "fetched") else 0
        self._database.execute(
            "UPDATE shard SET pages = ?, rows = ?, rejected = ?, token = ?, state = ?, empty_since = ?, "
            f"replaces = ?{asked} WHERE id = ?",
            (
                progress.pages,
                kept,
                progress.rejected,
                token,
                state,
                progress.empty_since,
                left,
                progress.id,
            ),
        )

    def restart(self, progress: Progress) -> None:
        """Forget the pages of a shard that is not stored."""
        progress.pages = progress.rows = progress.rejected = 0
        progress.token, progress.fetched = "", False
        self._database.execute(f"{_RESTART} WHERE id = ?", (progress.id,))

    def reopen(self, shards: Iterable[int]) -> None:
        """Let shards be fetched again. The table keeps its rows of them until there are new ones."""
        self._database.execute("BEGIN")
        self._database.executemany(
            f"{_RESTART}, replaces = CASE state WHEN 'stored' THEN rows ELSE replaces END WHERE id = ?",
            [(number,) for number in shards],
        )
        self._database.execute("COMMIT")

    def shorten(self, progress: Progress, past: int) -> None:
        """Let a shard that is not fetched end at `past`, so that the next run adds the rest anew."""
        if past <= progress.shard.first:
            self._database.execute("DELETE FROM shard WHERE id = ?", (progress.id,))
            return
        progress.shard = progress.shard._replace(past=past)
        self._database.execute("UPDATE shard SET past = ? WHERE id = ?", (past, progress.id))

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
        # Deletions may be lost too, so that the table could have older rows of these shards.
        restart = f"{_RESTART}, replaces = {UNKNOWN} WHERE file IN (SELECT id {lost})"
        self._database.execute(restart, (dataset, version))
        self._database.execute(f"DELETE {lost}", (dataset, version))
        self._database.execute("COMMIT")

    def finish_commit(self, number: int) -> None:
        """Note that a group of files is in the table."""
        self._database.execute("BEGIN")
        self._database.execute("UPDATE file SET done = 1 WHERE id = ?", (number,))
        self._database.execute("UPDATE shard SET state = 'stored', replaces = 0 WHERE file = ?", (number,))
        self._database.execute("COMMIT")

    def drop_files(self, number: int) -> None:
        """Forget a group of files that was never committed. Its shards stay staged."""
        self._database.execute("BEGIN")
        self._database.execute("UPDATE shard SET file = NULL WHERE file = ?", (number,))
        self._database.execute("DELETE FROM file WHERE id = ?", (number,))
        self._database.execute("COMMIT")

    def staged_shards(self) -> list[int]:
        """Return the shards whose staged pages are needed."""
        return [
            n for (n,) in self._database.execute("SELECT id FROM shard WHERE state IN ('open', 'fetched')")
        ]

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
