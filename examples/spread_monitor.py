"""Show the bid-ask spread of every stock, the widest first, once a second.

It shows how to read the last quote of each symbol, and how to compute with Polars expressions.
Run it beside an engine: `mdstream run` in one terminal, `python examples/spread_monitor.py` in another.
"""

from __future__ import annotations

import sys
import time

import polars as pl

import mdstream

EVERY_S = 1.0
SHOWN = 10

BID, ASK = pl.col("quote_bid_price"), pl.col("quote_ask_price")
MID = (BID + ASK) / 2


def spreads(latest: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each symbol with both sides: spread in basis points and age of the quote."""
    now = pl.lit(time.time_ns()).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC")
    return (
        latest.filter(BID.is_not_null() & ASK.is_not_null())
        .select(
            "symbol",
            bid=BID,
            ask=ASK,
            spread_bps=((ASK - BID) / MID * 10_000).round(2),
            age_ms=(now - pl.col("quote_recv_ts")).dt.total_milliseconds(),
        )
        .sort("spread_bps", descending=True)
    )


def main() -> None:
    """Print the widest spreads until Ctrl-C, or until the engine ends."""
    run = mdstream.attach()
    while run.alive:
        print(spreads(run.latest("stocks")).head(SHOWN), flush=True)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except mdstream.MdstreamError as error:
        sys.exit(f"spread_monitor: {error}")
