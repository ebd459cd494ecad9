"""`mdstream export`: rows of a store as one file for other programs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdstream.errors import ConfigError, StoreError
from mdstream.store.objects import summarize_error

if TYPE_CHECKING:
    import polars as pl

_ENDINGS = (".csv", ".csv.gz", ".parquet")


def export(
    dataset: Annotated[str, typer.Argument(help="What to export, as stocks.trades.")],
    to: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="FILE.csv, FILE.csv.gz or FILE.parquet; with --nautilus, a folder."
        ),
    ],
    store: Annotated[str, typer.Option(metavar="DIR", help="Folder, or s3://bucket/prefix.")],
    symbols: Annotated[str | None, typer.Option(metavar="A,B", help="Only these. Default: all.")] = None,
    start: Annotated[str | None, typer.Option(help="Date or time, UTC. Default: all.")] = None,
    end: Annotated[str | None, typer.Option(help="Date (that day included) or time. Default: all.")] = None,
    feed: Annotated[str, typer.Option(help="Rows of this feed only.")] = "",
    timeframe: Annotated[str, typer.Option(help="Bars of this timeframe only, as 1Min.")] = "",
    adjustment: Annotated[str, typer.Option(help="Stock bars of this adjustment only, as raw.")] = "",
    nautilus: Annotated[
        bool, typer.Option("--nautilus", help="A NautilusTrader catalogue instead of a file.")
    ] = False,
    venue: Annotated[
        str, typer.Option(help="With --nautilus: the venue in instrument ids, as AAPL.XNAS.")
    ] = "ALPACA",
    force: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Write what a store has of a dataset to one file, history and recorded rows as one.

    Rows are sorted by symbol and time, times whole nanoseconds; in CSV, lists are joined with a semicolon.

    Memory is bounded but for the sorting. The file is there whole, or not at all.

    With --nautilus, trades, quotes and bars become a NautilusTrader catalogue of ticks, bars and
    instruments, a file a symbol and day (bars: year). NautilusTrader need not be installed.
    """
    import polars as pl

    from mdstream.store.catalogue import scan

    names = [name.strip() for name in symbols.split(",") if name.strip()] if symbols else None
    if nautilus:
        _to_nautilus(
            dataset,
            to,
            store,
            venue,
            force,
            symbols=names,
            start=start,
            end=end,
            feed=feed,
            timeframe=timeframe,
            adjustment=adjustment,
        )
        return
    ending = next((each for each in _ENDINGS if to.name.endswith(each)), None)
    if ending is None:
        raise ConfigError(f"--to {to}: its name must end in {', '.join(_ENDINGS)}")
    if to.exists() and not force:
        raise ConfigError(f"--to {to}: it is there already; --force replaces it")
    if not to.absolute().parent.is_dir():
        raise ConfigError(f"--to {to}: no folder {to.absolute().parent}")
    rows = scan(
        dataset,
        store,
        symbols=names,
        start=start,
        end=end,
        feed=feed,
        timeframe=timeframe,
        adjustment=adjustment,
    )
    columns = rows.collect_schema().names()
    rows = rows.sort([name for name in ("symbol", "ts", "created_at") if name in columns])
    failures = (OSError, pl.exceptions.ComputeError)  # which Parquet's writer makes of the former
    partial = to.with_name(f".{to.name}.partial")
    try:
        _write(rows, partial, ending)
        partial.rename(to)
    except failures as error:
        raise StoreError(f"cannot export to {to}: {summarize_error(error)}") from error
    finally:
        partial.unlink(missing_ok=True)
    count = _rows(to, ending)
    print(f"{count:,} rows in {to}")
    if not count:
        print("the store has nothing of these symbols and this time", file=sys.stderr)


def _to_nautilus(dataset: str, catalog: Path, store: str, venue: str, force: bool, **chosen: Any) -> None:
    from mdstream.store import nautilus
    from mdstream.store.catalogue import scan

    nautilus.check(dataset)
    if catalog.exists() and not catalog.is_dir():
        raise ConfigError(f"--to {catalog}: a catalogue is a folder, and this is a file")
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", venue):
        raise ConfigError(f"--venue {venue!r}: capital letters, digits and _ only, as XNAS")
    rows = scan(dataset, store, **chosen)
    try:
        found = nautilus.export(dataset, rows, catalog, venue=venue, force=force)
    except OSError as error:
        raise StoreError(f"cannot export to {catalog}: {summarize_error(error)}") from error
    print(f"{found.rows:,} rows of {found.symbols:,} symbols in {found.files:,} files in {catalog}")
    if found.left_out:
        print(f"  left out: {found.left_out:,} trades without price or size, or quotes of one side")


def _write(rows: pl.LazyFrame, path: Path, ending: str) -> None:
    import polars as pl

    if ending == ".parquet":
        rows.sink_parquet(path, compression="zstd")
        return
    lists = [name for name, kind in rows.collect_schema().items() if isinstance(kind, pl.List)]
    flat = rows.with_columns(pl.col(lists).list.join(";"))
    if ending == ".csv":
        flat.sink_csv(path)
    else:
        flat.sink_csv(path, compression="gzip", check_extension=False)


def _rows(path: Path, ending: str) -> int:
    import polars as pl

    frame = pl.scan_parquet(path) if ending == ".parquet" else pl.scan_csv(path)
    return int(frame.select(pl.len()).collect().item())
