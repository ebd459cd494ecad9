"""Rows that are revised, as articles are: each once, in its last revision, and one row a symbol."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def latest(rows: pl.DataFrame, key: Sequence[str], by: str) -> pl.DataFrame:
    """Return each row once, in the order of column `by`: a revision replaces the row with its `key`."""
    ordered = rows.sort(by, maintain_order=True)
    return ordered.unique(key, keep="last", maintain_order=True)


def by_symbol(rows: pl.DataFrame, key: Sequence[str], by: str) -> pl.DataFrame:
    """Return a row for each symbol that a row names (`symbol`); rows that name none are left out."""
    each = latest(rows, key, by).explode("symbols").rename({"symbols": "symbol"})
    each = each.drop_nulls("symbol").unique([*key, "symbol"], maintain_order=True)
    return each.select("symbol", pl.exclude("symbol"))
