"""Which names a dataset of a store knows (symbols, feeds, …): those that have rows or were requested."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdstream.errors import ConfigError, UnknownNameError
from mdstream.store.query import matches
from mdstream.streams.spec import REJECTS
from mdstream.text.patterns import find_matching, is_pattern

if TYPE_CHECKING:
    from deltalake import DeltaTable

LEDGER = Path("_mdstream", "ledger.sqlite")
"""Path of the ledger of requests in a local store."""

_EVERYTHING = "*"
"""Symbol of requests for the rows of all symbols; as a pattern, it is never unknown."""


def check_symbols(store: str, dataset: str, wanted: Sequence[str], tables: Sequence[DeltaTable]) -> None:
    """Raise `UnknownNameError` for a symbol that was never requested and has no row in any table.

    A pattern is unknown if no such symbol matches it.
    """
    for name in wanted:
        if "," in name:
            raise ConfigError(f"{name!r} is not a symbol: pass several symbols as a list")
    missing = {*wanted} - {_EVERYTHING}
    if missing:
        requested = _find_requested(store, dataset, missing)
        if _EVERYTHING in requested:
            return
        missing -= _find_named(missing, requested)
    for table in tables if missing else ():
        missing -= _find_named(missing, _bounds_of_files(table))
    for table in tables if missing else ():
        missing -= _find_rows(table, sorted(missing))
    for symbol in wanted:
        if symbol in missing:
            known = sorted(set().union(*map(_list_symbols, tables)))
            problem = f"symbols: {symbol!r} has no row in {dataset} of {store}, and was not requested"
            if is_pattern(symbol):
                problem = f"symbols: {symbol!r} matches no symbol in {dataset} of {store}"
            raise UnknownNameError.among(known, symbol, problem)


def check_kinds(
    store: str,
    dataset: str,
    wanted: Mapping[str, str],
    tables: Sequence[DeltaTable],
    recorded: Mapping[str, Sequence[str]],
) -> None:
    """Raise `UnknownNameError` for a value of a partition column that no table has and nobody requested.

    `recorded` has the values of columns that recorded tables are not partitioned by. Tables without files
    know nothing, and any value may be asked of them.
    """
    for name, value in wanted.items():
        if not value:
            continue
        partitions = [each for table in tables for each in table.partitions()]
        known = {each[name] for each in partitions if each.get(name)}.union(recorded.get(name, ()))
        if dataset.endswith(f".{REJECTS.name}"):  # those of history are in no table
            known |= _find_requested_kinds(store, dataset)
        if known and value not in known and value not in _find_requested_kinds(store, dataset):
            problem = f"{name}: {value!r} has no row in {dataset} of {store}, and was not requested"
            raise UnknownNameError.among(sorted(known), value, problem)


def _find_requested(store: str, dataset: str, symbols: set[str]) -> set[str]:
    """Return those of `symbols` that a backfill has requested; with `*` if it has requested everything.

    If there are patterns, these are all symbols that it has requested.
    """
    if any(map(is_pattern, symbols)):
        rows = _query_ledger(store, "SELECT DISTINCT symbol FROM shard WHERE dataset = ?", dataset)
        return {symbol for (symbol,) in rows}
    find = "SELECT 1 FROM shard WHERE dataset = ? AND symbol = ? LIMIT 1"
    return {each for each in (*symbols, _EVERYTHING) if _query_ledger(store, find, dataset, each)}


def _find_named(wanted: set[str], symbols: set[str]) -> set[str]:
    """Return those of `wanted` that are among `symbols`, or are patterns that match one of them."""
    found = wanted & symbols
    return found | {each for each in wanted - found if is_pattern(each) and find_matching(each, symbols)}


def _find_requested_kinds(store: str, dataset: str) -> set[str]:
    """Return the feeds, timeframes and adjustments that backfills have requested."""
    stream, _, name = dataset.partition(".")
    if name == REJECTS.name:  # of all that was fetched of the stream
        find, value = "SELECT DISTINCT variant FROM shard WHERE dataset GLOB ?", f"{stream}.*"
    else:
        find, value = "SELECT DISTINCT variant FROM shard WHERE dataset = ?", dataset
    rows = _query_ledger(store, find, value)
    return {kind for (variant,) in rows for kind in variant.split("/")}


def _query_ledger(store: str, query: str, *values: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query to the ledger; none if there is no ledger, or it is damaged."""
    path = Path(store) / LEDGER
    if not path.exists():  # recorded only, or an object store
        return []
    # In a read-only folder nobody writes, and SQLite cannot create its files.
    mode = "mode=ro" if os.access(path.parent, os.W_OK) else "immutable=1"
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)) as database:
        try:
            return database.execute(query, values).fetchall()
        except sqlite3.DatabaseError:  # a backfill says that it is damaged; a scan needs only the rows
            return []


def _bounds_of_files(table: DeltaTable) -> set[str]:
    """Return the first and last symbol of each file, which the log of the table has."""
    actions: Any = table.get_add_actions(flatten=True)
    names = [name for name in ("min.symbol", "max.symbol") if name in actions.schema.names]
    return {str(value) for name in names for value in actions[name].to_pylist() if value is not None}


def _find_rows(table: DeltaTable, symbols: Sequence[str]) -> set[str]:
    """Return those of `symbols` that have a row. Only parts of files that may have them are read."""
    import polars as pl

    rows = pl.scan_delta(table)
    if "symbol" not in rows.collect_schema().names():
        return _find_named(set(symbols), _list_symbols(table))
    asked = [rows.filter(matches(pl.col("symbol"), [name])).select("symbol").head(1) for name in symbols]
    return {name for name, frame in zip(symbols, pl.collect_all(asked), strict=True) if frame.height}


def _list_symbols(table: DeltaTable) -> set[str]:
    import polars as pl

    rows = pl.scan_delta(table)
    if "symbol" not in rows.collect_schema().names():
        rows = rows.select(pl.col("symbols").explode().alias("symbol"))
    return set(rows.select("symbol").unique().drop_nulls().collect()["symbol"])
