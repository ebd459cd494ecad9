"""Rows of some sessions of the market: one rule for `scan`, frames and bars.

A row's session follows from its time and its market. The market is that of its stream, whatever the data
feed: the sessions of all feeds of the stream together. So a trade of contracts at 16:05 in New York is
regular, and one of stocks is not. A market that never closes is always regular.

A bar counts by its start. One of a day or longer spans several sessions and is in none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import polars as pl

from mdstream.errors import ConfigError
from mdstream.streams import STREAMS
from mdstream.venues.alpaca import sessions
from mdstream.venues.alpaca.sessions import ALL_SESSIONS, Hours, Session
from mdstream.venues.alpaca.timeframes import is_day_or_longer


def keep_sessions(
    rows: pl.LazyFrame, dataset: str, time: str, names: str | Sequence[str] | None, timeframe: str = ""
) -> pl.LazyFrame:
    """Return the rows of a frame or dataset whose `time` is in one of these sessions; None keeps all.

    Raises `UnknownNameError` for another session, and `ConfigError` if `timeframe`, the one that was asked
    for, is a day or longer.
    """
    if names is None:
        return rows
    wanted, hours = sessions.read_sessions(names), hours_of(dataset)
    if hours is None:
        return rows if Session.REGULAR in wanted else rows.filter(pl.lit(False))
    if timeframe and is_day_or_longer(timeframe):
        raise ConfigError(f"session: a bar of {timeframe} is in no session; leave out one of the two")
    found = pl.col(time).map_batches(
        partial(sessions.classify, hours=hours), pl.String, is_elementwise=True
    )
    inside = found.is_in(wanted).fill_null(False)
    return rows.filter(inside & ~_is_long_bar(dataset, rows.collect_schema().names()))


def hours_of(dataset: str) -> Hours | None:
    """Return the sessions of the market of a frame or dataset; None if it never closes.

    Frames that are of no stream, such as the engine's own, have those of US stocks.
    """
    spec = STREAMS.get(dataset.partition(".")[0])
    if spec is None:
        return ALL_SESSIONS
    return None if spec.always_open else sessions.join_hours(spec.feeds)


def _is_long_bar(dataset: str, columns: Collection[str]) -> pl.Expr:
    """Return whether a row is a bar of a day or longer."""
    if "timeframe" in columns:
        return pl.col("timeframe").cast(pl.String).str.contains("Day|Week|Month").fill_null(False)
    if "kind" in columns and dataset.endswith(".bars"):
        return (pl.col("kind").cast(pl.String) == "daily").fill_null(False)
    return pl.lit(False)
