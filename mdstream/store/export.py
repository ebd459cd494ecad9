"""Export of a store's rows: CSV, compressed CSV, Parquet, or a NautilusTrader catalogue."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import polars as pl

from mdstream.errors import ConfigError, StoreError
from mdstream.reading.byte_texts import bytes_to_text
from mdstream.store import nautilus
from mdstream.store.arrival import sort_by_arrival
from mdstream.store.objects import summarize_error
from mdstream.store.schema import ROW
from mdstream.system.shared_places import follow_own_links, replace_named, why_not_ours

ENDINGS = (".csv", ".csv.gz", ".parquet")
_VENUE = re.compile(r"[A-Z][A-Z0-9_]*")


def check_file(to: Path, force: bool) -> str:
    """Return the ending of `to`. Raises `ConfigError` if a file cannot be written there."""
    ending = next((each for each in ENDINGS if to.name.endswith(each)), None)
    if ending is None:
        raise ConfigError(f"--to {to}: its name must end in {', '.join(ENDINGS)}")
    if why := why_not_ours(to):
        raise ConfigError(f"--to {to}: {why}")
    if to.exists() and not force:
        raise ConfigError(f"--to {to}: the file exists; --force replaces it")
    if not to.absolute().parent.is_dir():
        raise ConfigError(f"--to {to}: the folder {to.absolute().parent} does not exist")
    return ending


def export_file(rows: pl.LazyFrame, to: Path, force: bool = False) -> int:
    """Write `rows` to a file, sorted by symbol, time and arrival. Return their number.

    The number of a row (`scan(..., numbered=True)`) is not written.

    The kind of file follows from its name. Times have nanoseconds; in CSV, lists are joined with a
    semicolon. Memory is bounded, except for the sorting. The file is complete or does not exist. Raises
    `ConfigError` as `check_file` does, and `StoreError` if writing fails.
    """
    ending = check_file(to, force)
    columns = rows.collect_schema().names()
    order = [name for name in ("symbol", "ts", "created_at") if name in columns]
    rows = sort_by_arrival(rows, *order).drop(ROW, strict=False)
    failures = (OSError, pl.exceptions.ComputeError)  # the Parquet writer turns the former into the latter
    try:
        with replace_named(to) as file:
            _write(rows, file, ending)
    except failures as error:
        raise StoreError(f"cannot export to {to}: {summarize_error(error)}") from error
    frame = pl.scan_parquet(to) if ending == ".parquet" else pl.scan_csv(to)
    return int(frame.select(pl.len()).collect().item())


def export_catalogue(
    dataset: str, rows: pl.LazyFrame, catalogue: Path, venue: str, force: bool = False
) -> nautilus.Written:
    """Write `rows` of a dataset to a NautilusTrader catalogue, a folder.

    Raises `ConfigError` as `check_catalogue` does, and `StoreError` if writing fails.
    """
    check_catalogue(dataset, catalogue, venue)
    try:
        return nautilus.export(dataset, rows, catalogue, venue=venue, force=force)
    except OSError as error:
        raise StoreError(f"cannot export to {catalogue}: {summarize_error(error)}") from error


def check_catalogue(dataset: str, catalogue: Path, venue: str) -> None:
    """Raise `ConfigError` if the dataset, folder or venue is not possible."""
    nautilus.check(dataset)
    if catalogue.exists() and not catalogue.is_dir():
        raise ConfigError(f"--to {catalogue}: a catalogue is a folder, but this is a file")
    for folder in (catalogue, catalogue / "data", *catalogue.glob("data/*"), *catalogue.glob("data/*/*")):
        try:
            follow_own_links(folder)
        except PermissionError as error:
            raise ConfigError(f"--to {catalogue}: {error.strerror}") from error
    if not _VENUE.fullmatch(venue):
        raise ConfigError(f"--venue {venue!r}: use capital letters, digits and _ only, as XNAS")


def _write(rows: pl.LazyFrame, file: BinaryIO, ending: str) -> None:
    if ending == ".parquet":
        rows.sink_parquet(file, compression="zstd")
        return
    lists = [name for name, kind in rows.collect_schema().items() if isinstance(kind, pl.List)]
    flat = rows.with_columns(pl.col(lists).list.join(";"), *bytes_to_text(rows))
    if ending == ".csv":
        flat.sink_csv(file)
    else:
        flat.sink_csv(file, compression="gzip", check_extension=False)
