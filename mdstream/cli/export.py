"""`mdstream export`: rows of a store as one file for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mdstream.cli.flags import parse_path, split_names


def export(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Dataset to export, as stocks.trades.")],
    to: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            parser=parse_path,
            help="FILE.csv, FILE.csv.gz or FILE.parquet; with --nautilus, a folder.",
        ),
    ],
    store: Annotated[str, typer.Option(metavar="DIR", help="Folder, or s3://bucket/prefix.")],
    symbols: Annotated[str | None, typer.Option(metavar="A,B", help="Only these. Default: all.")] = None,
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="Date or time, UTC. Default: all.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(metavar="TIME", help="Date (that day included) or time. Default: all.")
    ] = None,
    feed: Annotated[str, typer.Option(metavar="FEED", help="Rows of this data feed only.")] = "",
    timeframe: Annotated[
        str, typer.Option(metavar="TIMEFRAME", help="Bars of this timeframe only, as 1Min.")
    ] = "",
    adjustment: Annotated[
        str, typer.Option(metavar="ADJUSTMENT", help="Stock bars of this adjustment only, as raw.")
    ] = "",
    session: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Rows of these sessions only: regular, pre, post, overnight."),
    ] = None,
    amended: Annotated[
        bool, typer.Option("--amended", help="Also trades that were cancelled or corrected later.")
    ] = False,
    nautilus: Annotated[
        bool, typer.Option("--nautilus", help="Write a NautilusTrader catalogue instead of a file.")
    ] = False,
    venue: Annotated[
        str,
        typer.Option(metavar="VENUE", help="With --nautilus: the venue in instrument ids, as AAPL.XNAS."),
    ] = "ALPACA",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write the rows of a dataset in a store to one file, history and recorded rows together.

    Trades that were cancelled or corrected later are left out, unless --amended is given.

    Rows are sorted by symbol, time and arrival. Times are whole nanoseconds; in CSV, lists are joined with
    a semicolon.

    Memory is bounded except for sorting. The file appears complete, or not at all.

    With --nautilus, trades, quotes and bars become a NautilusTrader catalogue of ticks, bars and
    instruments, with a file for each symbol and day (bars: year). NautilusTrader need not be installed. If
    it can represent none of the rows, the exit code is 1.
    """
    from mdstream.store import export as exports
    from mdstream.store.catalogue import scan

    if nautilus:
        exports.check_catalogue(dataset, to, venue)
    else:
        exports.check_file(to, force)
    rows = scan(
        dataset,
        store,
        symbols=split_names(symbols) if symbols else None,
        start=start,
        end=end,
        feed=feed,
        timeframe=timeframe,
        adjustment=adjustment,
        amended=amended,
        numbered=True,
        session=split_names(session) if session else None,
    )
    if nautilus:
        found = exports.export_catalogue(dataset, rows, to, venue, force)
        print(f"{found.rows:,} rows of {found.symbols:,} symbols in {found.files:,} files in {to}")
        if found.left_out:
            rows_left = f"{found.left_out:,} {'row' if found.left_out == 1 else 'rows'}"
            print(f"  left out: {rows_left} that NautilusTrader cannot represent")
        if found.left_out and not found.rows:
            raise typer.Exit(1)
        return
    count = exports.export_file(rows, to, force)
    print(f"{count:,} rows in {to}")
    if not count:
        print("the store has no rows of these symbols in this range", file=sys.stderr)
