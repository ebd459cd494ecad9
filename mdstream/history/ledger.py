"""What was asked of the past, and how far it has come: a SQLite file in the store.

    asked ─► open ─(each page)─► open ─(last page)─► fetched ─(joined, committed)─► stored

A shard's pages are staged one by one, each with the token of the next; what is interrupted goes on
there. A shard goes to the store's table as a whole, or not at all. A commit is written down here before it
is made, and the table knows its number: after a kill between the two, the table says what happened.
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


@dataclass(slots=True)
class Progress:
    """A shard, and how far it has come: pages staged, their rows, and the token of the next page."""

    id: int
    shard: Shard
    token: str = ""
    pages: int = 0
    rows: int = 0
    rejected: int = 0
    fetched: bool = False


class Commits(NamedTuple):
    """The numbers of the last commits to a table: one that is known to be in it, and one that was begun."""

    done: int
    begun: int


class LedgerView:
    """The ledger of one store, read beside whoever holds it. Raises `StoreError` if it cannot be."""

    _database: sqlite3.Connection

    def __init__(self, folder: Path) -> None:
        # What cannot be written has nobody who writes, and no room for SQLite's own notes.
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

    def known(self, dataset: str, variant: str, symbol: str) -> list[tuple[Shard, str]]:
        """The shards of a symbol, with their state, by time."""
        rows = self._database.execute(
            "SELECT symbol, first, past, state FROM shard WHERE dataset = ? AND variant = ? AND symbol = ? "
            "ORDER BY first",
            (dataset, variant, symbol),
        )
        return [(Shard(name, first, past), state) for name, first, past, state in rows]

    def density(self, dataset: str, variant: str) -> dict[str, float]:
        """Rows a nanosecond of the symbols of which some shard is fetched."""
        rows = self._database.execute(
            "SELECT symbol, sum(rows), sum(past - first) FROM shard "
            "WHERE dataset = ? AND variant = ? AND state != 'open' GROUP BY symbol",
            (dataset, variant),
        )
        return {symbol: count / span for symbol, count, span in rows if span}

    def in_state(self, dataset: str, variant: str, state: str) -> list[Progress]:
        """The shards in a state, by symbol and time."""
        rows = self._database.execute(
            "SELECT id, symbol, first, past, token, pages, rows, rejected FROM shard "
            "WHERE dataset = ? AND variant = ? AND state = ? ORDER BY symbol, first",
            (dataset, variant, state),
        )
        return [
            Progress(number, Shard(*shard), token, pages, kept, rejected, state == "fetched")
            for number, *shard, token, pages, kept, rejected in rows
        ]


class Ledger(LedgerView):
    """The ledger of one store, held by one process at a time."""

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
        # Used by one thread at a time, which is not always the same.
        self._database = sqlite3.connect(folder / LEDGER, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_SCHEMA)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        os.close(self._lock)

    # -- shards

    def add(self, dataset: str, variant: str, shards: Iterable[Shard]) -> None:
        """Note what is to be fetched."""
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO shard (dataset, variant, symbol, first, past) VALUES (?, ?, ?, ?, ?)",
            [(dataset, variant, *shard) for shard in shards],
        )
        self._database.execute("COMMIT")

    def page(self, progress: Progress, rows: int, rejected: int, token: str) -> None:
        """A page is staged; with no token it was the last."""
        progress.pages += 1
        progress.rows += rows
        progress.rejected += rejected
        progress.token, progress.fetched = token, not token
        state = "open" if token else "fetched" if progress.rows else "stored"
        self._database.execute(
            "UPDATE shard SET pages = ?, rows = ?, rejected = ?, token = ?, state = ? WHERE id = ?",
            (progress.pages, progress.rows, progress.rejected, token, state, progress.id),
        )

    def begin_again(self, progress: Progress) -> None:
        """Forget what was fetched of a shard that is not stored."""
        progress.pages = progress.rows = progress.rejected = 0
        progress.token, progress.fetched = "", False
        self._database.execute(
            "UPDATE shard SET pages = 0, rows = 0, rejected = 0, token = '', state = 'open', file = NULL "
            "WHERE id = ?",
            (progress.id,),
        )

    # -- files

    def file(self, dataset: str, path: str, shards: Sequence[int]) -> int:
        """Shards are being joined to files at `path`, a line each; the number of these files."""
        self._database.execute("BEGIN")
        number = self._database.execute(
            "INSERT INTO file (dataset, path) VALUES (?, ?)", (dataset, path)
        ).lastrowid
        assert number is not None
        self._database.executemany(
            "UPDATE shard SET file = ? WHERE id = ?", [(number, shard) for shard in shards]
        )
        self._database.execute("COMMIT")
        return number

    def committing(self, dataset: str, files: Sequence[int]) -> int:
        """Files are about to be committed to the table: the number of that commit."""
        (last,) = self._database.execute(
            "SELECT max(version) FROM file WHERE dataset = ?", (dataset,)
        ).fetchone()
        version = (last or 0) + 1
        self._database.executemany(
            "UPDATE file SET version = ? WHERE id = ?", [(version, number) for number in files]
        )
        # To the disk, or a cut of power leaves a commit that nobody has announced.
        self._database.execute("PRAGMA wal_checkpoint")
        return version

    def last_commit(self, dataset: str) -> Commits:
        """The last commits to a dataset's table, 0 if there was none."""
        done, begun = self._database.execute(
            "SELECT max(CASE WHEN done THEN version END), max(version) FROM file WHERE dataset = ?",
            (dataset,),
        ).fetchone()
        return Commits(done or 0, begun or 0)

    def identity(self, dataset: str) -> str:
        """The id of the table that a dataset was stored in; empty if none is noted."""
        found = self._database.execute("SELECT id FROM known WHERE dataset = ?", (dataset,)).fetchone()
        return str(found[0]) if found else ""

    def identify(self, dataset: str, table: str) -> None:
        """A dataset is stored in the table with this id."""
        self._database.execute("INSERT OR REPLACE INTO known VALUES (?, ?)", (dataset, table))

    def take_back(self, dataset: str, version: int) -> None:
        """The table has no commit later than `version`: the shards of those are to be fetched again."""
        lost = "FROM file WHERE dataset = ? AND version > ? AND done"
        self._database.execute("BEGIN")
        self._database.execute(
            "UPDATE shard SET pages = 0, rows = 0, rejected = 0, token = '', state = 'open', file = NULL "
            f"WHERE file IN (SELECT id {lost})",
            (dataset, version),
        )
        self._database.execute(f"DELETE {lost}", (dataset, version))
        self._database.execute("COMMIT")

    def committed(self, files: Sequence[int]) -> None:
        """Files are in the table."""
        self._database.execute("BEGIN")
        self._database.executemany("UPDATE file SET done = 1 WHERE id = ?", [(n,) for n in files])
        self._database.executemany(
            "UPDATE shard SET state = 'stored' WHERE file = ?", [(n,) for n in files]
        )
        self._database.execute("COMMIT")

    def given_up(self, files: Sequence[int]) -> None:
        """Files were never committed, and are no more: their shards stay staged."""
        self._database.execute("BEGIN")
        self._database.executemany("UPDATE shard SET file = NULL WHERE file = ?", [(n,) for n in files])
        self._database.executemany("DELETE FROM file WHERE id = ?", [(n,) for n in files])
        self._database.execute("COMMIT")

    def staging(self) -> list[int]:
        """The shards whose staged pages are needed."""
        return [n for (n,) in self._database.execute("SELECT id FROM shard WHERE state != 'stored'")]

    def unsettled(self, dataset: str) -> list[tuple[int, str, int | None]]:
        """Files that the last process did not finish: number, paths, and the commit if it was begun."""
        rows = self._database.execute(
            "SELECT id, path, version FROM file WHERE dataset = ? AND NOT done ORDER BY id", (dataset,)
        )
        return rows.fetchall()


def missing(wanted: Shard, have: Sequence[Shard]) -> list[Shard]:
    """What of `wanted` none of `have` covers."""
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
