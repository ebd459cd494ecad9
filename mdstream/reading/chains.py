"""Option chains: the last values of each contract, with the terms that its symbol names.

A symbol is the root, expiry (YYMMDD), C or P, and the strike price times 1000 in eight digits:
`AAPL240426C00162500` (the OCC's OSI format without padding). So the last 15 characters have a fixed form,
whatever the root's length.
"""

from __future__ import annotations

from datetime import date, datetime

import polars as pl

from mdstream.errors import ConfigError, UnknownNameError

_GREEKS = ("implied_volatility", "delta", "gamma", "theta", "vega", "rho")


def build_chains(latest: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each contract of `options.latest`, sorted by root, expiry, strike and right.

    `expiry` is a date, `right` is "call" or "put", `strike` and prices are Float64. `mid` is null if a
    side is absent. Rows whose symbol is not a contract are left out.
    """
    name = pl.col("symbol").cast(pl.String)
    tail = name.str.tail(15)
    parsed = latest.with_columns(
        root=name.str.head(-15),
        expiry=tail.str.head(6).str.to_date("%y%m%d", strict=False),
        right=tail.str.slice(6, 1).replace_strict({"C": "call", "P": "put"}, default=None),
        strike=tail.str.tail(8).cast(pl.Int64, strict=False) / 1000,
    ).filter(
        (pl.col("root") != "")
        & pl.col("expiry").is_not_null()
        & pl.col("right").is_not_null()
        & pl.col("strike").is_not_null()
    )
    bid, ask = pl.col("quote_bid_price"), pl.col("quote_ask_price")
    return parsed.select(
        "symbol",
        "root",
        "expiry",
        "strike",
        "right",
        bid.alias("bid"),
        ask.alias("ask"),
        ((bid + ask) / 2).alias("mid"),
        pl.col("trade_price").alias("last"),
        pl.col("quote_bid_size").alias("bid_size"),
        pl.col("quote_ask_size").alias("ask_size"),
        pl.col("trade_size").alias("last_size"),
        *_GREEKS,
        "quote_ts",
        "trade_ts",
        "greeks_recv_ts",
    ).sort("root", "expiry", "strike", "right")


def keep_expiry(chain: pl.DataFrame, underlying: str, expiry: date | str) -> pl.DataFrame:
    """Return the contracts of a chain that expire on a date, which may be a string.

    Raises `ConfigError` for what is not a date, and `UnknownNameError` if contracts expire only on others.
    """
    day = expiry
    if isinstance(day, str):
        try:
            day = date.fromisoformat(day)
        except ValueError:
            raise ConfigError(f"expiry: {expiry!r} is not a date, such as 2026-12-18") from None
    if not isinstance(day, date) or isinstance(day, datetime):
        raise ConfigError(f"expiry: {expiry!r} is not a date, such as 2026-12-18")
    known = chain["expiry"].unique().sort()
    if len(known) and day not in known:
        problem = f"chain: no contract of {underlying} that the run knows expires on {day}"
        raise UnknownNameError.among([str(each) for each in known], str(day), problem)
    return chain.filter(pl.col("expiry") == day)
