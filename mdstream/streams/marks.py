"""The rule by which a trade of history counts as marked: as not valid, cancelled or corrected later.

Any text is such a mark, also one that is not known yet: the service marks no valid trade.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdstream.streams.bar_rules import BarRules

if TYPE_CHECKING:
    import polars as pl


def is_mark(text: str | None) -> bool:
    """Return whether a text says that its trade does not count."""
    return text is not None and text.strip() != ""


def is_marked(rules: BarRules) -> pl.Expr:
    """Return the same for the rows of a frame, as an expression."""
    import polars as pl

    text = pl.col(rules.mark).cast(pl.String)
    return (text.str.strip_chars() != "").fill_null(value=False)
