"""Faults of a store that is being filled, as errors that say what to do."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdstream.errors import StoreError
from mdstream.history.ledger import LEDGER
from mdstream.system.resources import is_too_many_files, too_many_files

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def translate_faults(store: Path, folder: Path) -> Iterator[None]:
    """Translate errors of SQLite, of a full disk and of open files. `folder` has the ledger of `store`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreError(f"store: {folder / LEDGER} cannot be written: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"store: {folder / LEDGER} is damaged: {error}. Restore it, or remove {folder} "
            "and the tables next to it to fetch everything again"
        ) from error
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StoreError(f"store: no room in {store}; free some space") from error
        if is_too_many_files(error):
            raise too_many_files() from error
        raise
