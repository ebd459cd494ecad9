"""Columns of bytes as text, for people and for files of text."""

from __future__ import annotations

import base64

import polars as pl


def bytes_to_text(frame: pl.DataFrame | pl.LazyFrame) -> list[pl.Expr]:
    """Return expressions for columns of bytes: as text if they are UTF-8, otherwise in base64."""
    names = [name for name, dtype in frame.collect_schema().items() if dtype == pl.Binary]
    return [pl.col(name).map_elements(_to_text, return_dtype=pl.String) for name in names]


def _to_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()
