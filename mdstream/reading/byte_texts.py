"""Columns of bytes as text, for people and for files of text."""

from __future__ import annotations

import polars as pl


def bytes_to_text(frame: pl.DataFrame | pl.LazyFrame) -> list[pl.Expr]:
    """Return expressions for columns of bytes: as text if they are UTF-8, otherwise in base64."""
    schema = frame.collect_schema()
    columns = [pl.col(name) for name, dtype in schema.items() if dtype == pl.Binary]
    return [
        pl.coalesce(column.cast(pl.String, strict=False), column.bin.encode("base64")) for column in columns
    ]
