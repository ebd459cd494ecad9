"""Rows of a store and of frames, both read without the recorder's code."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import polars.selectors as cs

from mdstream.frames.layout import is_keyed, read_schema
from mdstream.reading.attach import Attachment
from mdstream.store.delta_table import locate


def list_recorded_frames(run: Path) -> list[str]:
    """Return the frames of a run that are recorded: all except keyed frames and telemetry."""
    folders = sorted((run / "frames").iterdir())
    return [
        folder.name
        for folder in folders
        if not folder.name.startswith("telemetry.") and not is_keyed(read_schema(folder))
    ]


def read_frames(run: Attachment) -> dict[str, pl.DataFrame]:
    """Return all rows of all recorded frames, sorted."""
    return {name: _sort(run.frame(name)) for name in list_recorded_frames(run.path)}


def read_store(store: Path | str, name: str, options: dict[str, str] | None = None) -> pl.DataFrame:
    """Return the rows of a frame's table in the form that the frame has, sorted."""
    frame = pl.scan_delta(locate(f"{store}/live/{name}", options)).collect()
    beyond = [column for column in frame.columns if column.endswith("_ns")]
    whole = [
        (pl.col(column[:-3]).dt.epoch("us") * 1000 + pl.col(column).cast(pl.Int64))
        .cast(pl.Datetime("ns", "UTC"))
        .alias(column[:-3])
        for column in beyond
    ]
    return _sort(frame.with_columns(whole).drop("feed", "date", "run", "row", *beyond))


def _sort(frame: pl.DataFrame) -> pl.DataFrame:
    lists = cs.by_dtype(pl.List(pl.String), pl.List(pl.Categorical))
    plain = frame.with_columns(
        cs.categorical().cast(pl.String), cs.unsigned_integer().cast(pl.Int64)
    ).with_columns(lists.cast(pl.List(pl.String)).list.join("\0"))
    return plain.sort(plain.columns)
