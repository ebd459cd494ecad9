"""Print news about symbols as they arrive, with the last price of each symbol.

It shows a tail over news, and how to look up values in the frames of another stream.
Run it beside an engine: `python examples/news_alert.py AAPL MSFT` (no symbols: all news)
"""

from __future__ import annotations

import sys
from typing import Any

import polars as pl

import mdstream


def alert(article: dict[str, Any], prices: dict[str, float]) -> str:
    """Return one line about an article."""
    quoted = [f"{symbol} {prices[symbol]:,.2f}" for symbol in article["symbols"] if symbol in prices]
    kind = "updated" if article["updated_at"] != article["created_at"] else "new"
    return f"{article['created_at']:%H:%M:%S} {kind:<7} {article['headline']} [{', '.join(quoted)}]"


def main(symbols: list[str]) -> None:
    """Print a line for each article that names one of `symbols`, until Ctrl-C."""
    run = mdstream.attach()
    for new in run.tail("news.articles", symbols=symbols or None, poll_s=0.1):
        last = run.latest("stocks").drop_nulls("trade_price")
        prices = dict(last.select(pl.col("symbol").cast(pl.String), "trade_price").iter_rows())
        for article in new.iter_rows(named=True):
            print(alert(article, prices), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        pass
    except mdstream.MdstreamError as error:
        sys.exit(f"news_alert: {error}")
