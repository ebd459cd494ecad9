"""Rows with revisions, such as articles: the last revision of each, and a row for each symbol."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def keep_last_revision(rows: pl.DataFrame, key: Sequence[str], by: str) -> pl.DataFrame:
    """Return the last row of each `key`, sorted by `by`: a revision replaces the row before."""
    ordered = rows.sort(by, maintain_order=True)
    return ordered.unique(key, keep="last", maintain_order=True)


def split_by_symbol(rows: pl.DataFrame, key: Sequence[str], by: str) -> pl.DataFrame:
    """Return a row for each symbol of each last revision; rows without symbols are left out."""
    each = keep_last_revision(rows, key, by).explode("symbols").rename({"symbols": "symbol"})
    each = each.drop_nulls("symbol").unique([*key, "symbol"], maintain_order=True)
    return each.select("symbol", pl.exclude("symbol"))
