"""The service's hosts, and which of them belong together."""

from __future__ import annotations

STREAM_URL = "wss://stream.data.alpaca.markets"
DATA_URL = "https://data.alpaca.markets"
LIVE_TRADING_URL = "https://api.alpaca.markets"
PAPER_TRADING_URL = "https://paper-api.alpaca.markets"
REST_URLS = (DATA_URL, LIVE_TRADING_URL, PAPER_TRADING_URL)

ASSETS_PATH = "/v2/assets"
"""On the trading host: assets by `status` and `asset_class`."""
STATUSES = ("active", "inactive")
"""Statuses of assets and contracts; inactive assets are delisted, inactive contracts expired."""
CONTRACTS_PATH = "/v2/options/contracts"
"""On the trading host: option contracts by underlying, expired ones too; in pages."""

_LIVE_KEY = "AK"
"""Prefix of the key ids of live accounts; that of paper accounts is PK."""
_SIBLING_SCHEMES = {"ws": "http", "wss": "https", "http": "ws", "https": "wss"}


def trading_url(key_id: str) -> str:
    """Return the trading host of a key's account."""
    return LIVE_TRADING_URL if key_id.startswith(_LIVE_KEY) else PAPER_TRADING_URL


def sibling(url: str) -> str:
    """Return the REST host that belongs to a stream host, or the other way round.

    `wss://stream.data.X` belongs to `https://data.X`; any other host serves both.
    """
    scheme, _, rest = url.partition("://")
    scheme = _SIBLING_SCHEMES[scheme]
    if rest.startswith("stream.data."):
        rest = rest.removeprefix("stream.")
    elif rest.startswith("data.") and scheme == "wss":
        rest = "stream." + rest
    return f"{scheme}://{rest}"
