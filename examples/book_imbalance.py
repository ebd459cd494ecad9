"""Watch the imbalance of a crypto order book: more size on the bid (+) or on the ask (-).

It shows how to react to every change of a book with an asynchronous tail, and how to read the book.
Run it beside an engine: `python examples/book_imbalance.py BTC/USD`
"""

from __future__ import annotations

import asyncio
import sys

import mdstream

LEVELS = 5
WIDTH = 20


def imbalance(bids: float, asks: float) -> float:
    """Return the imbalance of two sizes, from -1 (asks only) to +1 (bids only)."""
    return (bids - asks) / (bids + asks) if bids + asks else 0.0


async def main(symbol: str) -> None:
    """Print a line for each change of the book of `symbol`."""
    run = mdstream.attach()
    async for _ in run.tail("crypto.orderbooks", symbols=symbol, poll_s=0.05, max_lag=10_000):
        book = run.book(symbol).head(LEVELS)
        if not book.height:
            continue
        bids, asks = book.select("bid_size", "ask_size").sum().row(0)
        value = imbalance(bids, asks)
        bar = ("+" if value > 0 else "-") * round(abs(value) * WIDTH)
        best = f"{book['bid_price'][0]} / {book['ask_price'][0]}"
        print(f"{symbol} {best:>24} {value:+.2f} {bar}", flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "BTC/USD"))
    except KeyboardInterrupt:
        pass
    except mdstream.MdstreamError as error:
        sys.exit(f"book_imbalance: {error}")
