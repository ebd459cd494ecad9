"""The simulated markets. To add one: declare it in a file here and add it to `MARKETS`."""

from __future__ import annotations

from mdstream.simulator.markets.crypto import CRYPTO
from mdstream.simulator.markets.declaration import Market
from mdstream.simulator.markets.news import NEWS
from mdstream.simulator.markets.options import OPTIONS
from mdstream.simulator.markets.perps import PERPS
from mdstream.simulator.markets.stocks import STOCKS

__all__ = ["MARKETS", "Market"]

MARKETS: dict[str, Market] = {market.name: market for market in (STOCKS, OPTIONS, CRYPTO, NEWS, PERPS)}
