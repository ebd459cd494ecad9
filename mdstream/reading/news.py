"""News as readers ask for it: each article once, as it reads now, and an article a symbol."""

from __future__ import annotations

import polars as pl


def latest(articles: pl.DataFrame) -> pl.DataFrame:
    """Each article once, in the order of `updated_at`: an update replaces what was sent under its `id`."""
    ordered = articles.sort("updated_at", maintain_order=True)
    return ordered.unique("id", keep="last", maintain_order=True)


def by_symbol(articles: pl.DataFrame) -> pl.DataFrame:
    """A row an article and symbol it names (`symbol`); articles that name none are left out."""
    rows = latest(articles).explode("symbols").rename({"symbols": "symbol"})
    rows = rows.drop_nulls("symbol").unique(["id", "symbol"], maintain_order=True)
    return rows.select("symbol", pl.exclude("symbol"))
