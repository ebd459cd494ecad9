"""Leave out trades that were cancelled or corrected later, as any source says.

    a mark in history (`BarRules.mark`) ──────────────┐
    a recorded cancel or correction ─► its trade ─────┴─► left out, with the same rows of all other sources

An amendment names its trade by all of the channel's identity except the time. It means the last such trade
of the 24 hours before it. Where it has no price or size, the rest must suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdstream.store.schema import NS_SUFFIX
from mdstream.store.sources import list_identity_columns
from mdstream.streams.bar_rules import BarRules
from mdstream.streams.marks import is_marked
from mdstream.streams.spec import Channel

if TYPE_CHECKING:
    import polars as pl

_ID_COLUMNS = 3
"""The first matching columns, which identify a trade where ids do not repeat: symbol, exchange, id."""
_DAY_NS = 86_400_000_000_000
_AT, _TRADED = "_at", "_traded"


def list_matching_columns(channel: Channel) -> list[str]:
    """Return the columns by which an amendment names its trade."""
    return [name for name in channel.identity if name != channel.time]


def read_amendments(rows: pl.LazyFrame, channel: Channel) -> pl.LazyFrame:
    """Return what recorded cancels or corrections name, as matching columns of trades, and their times."""
    import polars as pl

    names = rows.collect_schema().names()
    originals = [
        pl.col(f"original_{name}" if f"original_{name}" in names else name).alias(name)
        for name in list_matching_columns(channel)
    ]
    return rows.select(*originals, _time_ns("ts").alias(_AT))


def drop_marked(
    rows: pl.LazyFrame, every: Sequence[pl.LazyFrame], channel: Channel, rules: BarRules
) -> pl.LazyFrame:
    """Return the merged `rows` without trades that any source among `every` has marked."""
    import polars as pl

    keys = list_identity_columns(channel, rows.collect_schema().names())
    marked = pl.concat(
        [source.filter(is_marked(rules)).select(keys) for source in every], how="vertical_relaxed"
    )
    return rows.join(marked.unique(), on=keys, how="anti", nulls_equal=True)


def drop_amended(rows: pl.LazyFrame, amendments: pl.LazyFrame, channel: Channel) -> pl.LazyFrame:
    """Return `rows` without the trades that `amendments` name."""
    import polars as pl

    keys = list_identity_columns(channel, rows.collect_schema().names())
    matching = list_matching_columns(channel)
    trades = rows.select(*keys, _time_ns(channel.time).alias(_TRADED))
    is_whole = pl.all_horizontal(pl.col(matching[_ID_COLUMNS:]).is_not_null())
    found = [
        trades.join(amendments.filter(which).select(*by, _AT), on=by, how="inner")
        .filter(pl.col(_TRADED).is_between(pl.col(_AT) - _DAY_NS, pl.col(_AT)))
        .filter(pl.col(_TRADED) == pl.col(_TRADED).max().over(*by, _AT))
        .select(keys)
        for which, by in ((is_whole, matching), (~is_whole, matching[:_ID_COLUMNS]))
    ]
    return rows.join(pl.concat(found).unique(), on=keys, how="anti", nulls_equal=True)


def _time_ns(name: str) -> pl.Expr:
    import polars as pl

    return pl.col(name).dt.epoch("us") * 1000 + pl.col(name + NS_SUFFIX)
