"""The market as a run receives it: last price, spread and age of the symbols that trade most."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl

from mdstream.reading.attach import Attachment
from mdstream.streams import STREAMS
from mdstream.views.table import Field

_RECENT_TRADES = 2_000
"""By these the most active symbols are chosen."""


@dataclass(frozen=True, slots=True)
class Price:
    """The last prices of one symbol; None where there is none yet."""

    stream: str
    symbol: str
    last: float | None
    bid: float | None
    ask: float | None
    spread_bp: float | None
    """Spread in hundredths of a percent of the mid."""
    age_s: float | None
    """Seconds since the last trade or quote."""


def read_prices(run: Attachment, most: int) -> list[Price]:
    """Return the last prices of at most `most` symbols: of each stream the most active, by symbol."""
    streams = [name for name in run.info.get("streams", ()) if STREAMS[name].latest]
    prices: list[Price] = []
    for index, stream in enumerate(streams):
        room = (most - len(prices)) // (len(streams) - index)
        prices += _read_stream(run, stream, room)
    return prices


def _read_stream(run: Attachment, stream: str, most: int) -> list[Price]:
    latest = run.latest(stream)
    names = {"trade_price", "trade_ts", "quote_bid_price", "quote_ask_price", "quote_ts"}
    if most <= 0 or not names <= set(latest.columns):
        return []
    active = run.frame(f"{stream}.trades").tail(_RECENT_TRADES)["symbol"].value_counts(name="trades")
    bid, ask = pl.col("quote_bid_price"), pl.col("quote_ask_price")
    now = pl.lit(time.time_ns()).cast(pl.Datetime("ns", "UTC"))
    chosen = (
        latest.join(active, on="symbol", how="left")
        .with_columns(
            pl.col("symbol").cast(pl.String),
            ((ask - bid) / (ask + bid) * 20_000).alias("spread_bp"),
            (now - pl.max_horizontal("trade_ts", "quote_ts")).alias("age"),
        )
        .sort(pl.col("trades").fill_null(0), "symbol", descending=[True, False])
        .head(most)
        .sort("symbol")
    )
    return [_price(stream, row) for row in chosen.iter_rows(named=True)]


def _price(stream: str, row: dict[str, Any]) -> Price:
    age: timedelta | None = row["age"]
    return Price(
        stream,
        row["symbol"],
        row["trade_price"],
        row["quote_bid_price"],
        row["quote_ask_price"],
        row["spread_bp"],
        None if age is None else max(0.0, age.total_seconds()),
    )


def fields(prices: list[Price]) -> list[Field]:
    """Return the columns of a table of prices."""
    return [
        Field("market", [each.stream for each in prices], 4, justify="left"),
        Field("symbol", [each.symbol for each in prices], justify="left"),
        Field("last price", [format_price(each.last) for each in prices]),
        Field("bid", [format_price(each.bid) for each in prices], 2),
        Field("ask", [format_price(each.ask) for each in prices], 2),
        Field("spread bp", ["-" if p.spread_bp is None else f"{p.spread_bp:,.1f}" for p in prices]),
        Field("age s", ["-" if p.age_s is None else f"{p.age_s:,.1f}" for p in prices], 1),
    ]


def format_price(price: float | None) -> str:
    """Return a price with as many digits as its size needs."""
    if price is None:
        return "-"
    size = abs(price)
    decimals = 2 if size >= 1 or not size else 4 if size >= 0.01 else 8
    return f"{price:,.{decimals}f}"
