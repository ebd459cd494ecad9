"""The order in which rows arrived.

Nothing else keeps it: tables are sorted by symbol and time, their compaction joins files in any order, and
a scan reads the newest file first. The rule, for everything in the store:

The row with the later receive time arrived later. Rows of one payload have the same time. Then the row with
the higher number in the frame of its run (the column `row`) arrived later. Rows that were recorded before
tables had this number are in their order within a file, so sorting is stable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdstream.store.schema import NS_SUFFIX, ROW
from mdstream.streams.spec import RECV_TS

if TYPE_CHECKING:
    import polars as pl


_MOST_ROWS = 1 << 44
"""More rows than a frame ever has."""


def sort_by_arrival(rows: pl.LazyFrame, *first: str) -> pl.LazyFrame:
    """Return rows sorted by the columns `first`, nulls first; equal ones are in the order of arrival.

    Rows without a receive time keep their order.
    """
    import polars as pl

    names, received = rows.collect_schema().names(), pl.col(RECV_TS.name)
    if RECV_TS.name not in names:
        return rows.sort(first, maintain_order=True)
    if RECV_TS.name + NS_SUFFIX in names:
        arrival = received.dt.epoch("us") * 1000 + pl.col(RECV_TS.name + NS_SUFFIX)
    else:
        arrival = received.dt.epoch("ns")
    if ROW in names:  # one number, because sorting by one column takes half the time
        arrival = arrival.cast(pl.Int128) * _MOST_ROWS + pl.col(ROW).fill_null(-1) + 1
    return rows.sort([*map(pl.col, first), arrival], maintain_order=True)
