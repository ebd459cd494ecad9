"""`mdstream tail`: print new rows of a frame of the running engine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mdstream.cli.flags import Directory
from mdstream.text.masking import clean

if TYPE_CHECKING:
    import polars as pl


def tail(
    frames: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FRAME...",
            help="Frames to follow, as stocks.trades. With several, each row begins with the name of its "
            "frame. Without one, list the frames.",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run to attach to. Default: the newest.")
    ] = None,
    directory: Directory = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Start with the oldest row that is kept.")
    ] = False,
    rows: Annotated[
        int, typer.Option("--rows", "-n", metavar="N", min=0, help="End after this many rows; 0: never.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per row.")] = False,
) -> None:
    """Print the rows of frames as they arrive. The engine waits for no reader, however many there are."""
    from mdstream.reading.attach import attach

    attachment = attach(run, directory)
    if not frames:
        for name in attachment.frames:
            print(f"{attachment.rows(name):>12,}  {name}")
        return
    following = attachment.tail(list(frames), from_start=from_start)
    left, header = rows or sys.maxsize, ""
    try:
        for name, batch in following:
            new = batch.head(left)
            labelled = _label(new, name) if len(frames) > 1 else new
            if as_json:
                sys.stdout.write(_to_json(labelled))
            else:
                sys.stdout.write(_to_table(labelled, has_header=name != header))
            sys.stdout.flush()
            header = name
            left -= new.height
            if left <= 0:
                return
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        pass  # the reader has gone
    if following.missed:
        print(f"mdstream: {following.missed} rows were dropped before they were read", file=sys.stderr)


def _label(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the rows of a frame with its name in front."""
    import polars as pl

    return frame.select(pl.lit(name).alias("frame"), pl.all())


def _to_json(frame: pl.DataFrame) -> str:
    """Return rows as JSON objects, one in each line."""
    from mdstream.reading.byte_texts import bytes_to_text

    return frame.with_columns(bytes_to_text(frame)).write_ndjson()


def _to_table(frame: pl.DataFrame, has_header: bool) -> str:
    """Return rows as lines of values between tabs."""
    from mdstream.reading.byte_texts import bytes_to_text

    flat = frame.with_columns(bytes_to_text(frame)).with_columns(_join_lists(frame))
    if sys.stdout.isatty():
        flat = flat.with_columns(_escape_texts(flat))
    return flat.write_csv(include_header=has_header, separator="\t")


def _join_lists(frame: pl.DataFrame) -> list[pl.Expr]:
    """Return expressions that join lists of symbols to one text each, for CSV."""
    import polars as pl

    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List)]
    return [pl.col(name).cast(pl.List(pl.String)).list.join(",") for name in lists]


def _escape_texts(frame: pl.DataFrame) -> list[pl.Expr]:
    """Return the columns of text without what a terminal would obey."""
    import polars as pl
    import polars.selectors as cs

    return [cs.by_dtype(pl.String, pl.Categorical).cast(pl.String).map_elements(clean, pl.String)]
