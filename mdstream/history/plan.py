"""Check and estimate of a request before it is fetched."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from mdstream.config import Endpoint
from mdstream.errors import ConfigError
from mdstream.history.ledger import LEDGER, Ledger, LedgerView, find_missing
from mdstream.history.request import BackfillRequest, Shard


class Estimate(NamedTuple):
    """Estimate of what a request takes."""

    shards: int
    """Shards to fetch."""
    begun: int
    """Those of them that are partly fetched."""
    already: int
    """Symbols that are complete."""
    rows: int | None
    """Approximate rows, by the density of rows in the store; None if the store has none to go by."""
    requests: int
    """Approximate requests, one per page. If the rows are unknown: one per shard, the minimum."""
    seconds: float
    """How long so many requests take at the budget."""


def check(request: BackfillRequest, store: Path, data: Endpoint) -> None:
    """Raise `ConfigError` if a request cannot be fetched into `store`."""
    if ":/" in str(store):
        url = str(store).replace(":/", "://", 1)  # `Path` has dropped a slash
        raise ConfigError(
            f"store {url!r}: a backfill fills a local folder; object stores are for recording"
        )
    if data.lacks_keys and not request.spec.always_open:
        raise ConfigError(
            "no keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY, or choose a server, for example "
            "--data-url http://127.0.0.1:8765 (mdstream simulate)"
        )


def estimate(request: BackfillRequest, store: Path, per_minute: int) -> Estimate:
    """Estimate what a request takes at `per_minute` REST requests.

    Fetches nothing, and creates no store.
    """
    stored: dict[str, list[Shard]] = {}
    density: dict[str, float] = {}
    begun: dict[Shard, int] = {}  # rows that are staged
    if (store / "_mdstream" / LEDGER).exists():
        with LedgerView(store / "_mdstream") as ledger:
            for symbol in request.symbols:
                shards = ledger.shards_of(request.dataset, request.variant, symbol)
                stored[symbol] = [shard for shard, state in shards if state != "open"]
            density = ledger.density(request.dataset, request.variant)
            open_shards = ledger.find(request.dataset, request.variant, "open")
            begun = {p.shard: p.rows for p in open_shards if p.pages}
    left = [
        part for shard in request.shards() for part in find_missing(shard, stored.get(shard.symbol, ()))
    ]
    symbols = {shard.symbol for shard in left}
    rows, requests = None, len(left)
    if density:
        usual = sum(density.values()) / len(density)
        each = [max(0.0, density.get(s.symbol, usual) * (s.past - s.first) - begun.get(s, 0)) for s in left]
        rows = round(sum(each))
        requests = sum(max(1, math.ceil(count / request.history.limit)) for count in each)
    minutes = max(0, requests - per_minute) / per_minute
    already = len(request.symbols) - len(symbols)
    return Estimate(len(left), sum(shard in begun for shard in left), already, rows, requests, minutes * 60)


def add_shards(request: BackfillRequest, ledger: Ledger) -> None:
    """Add to the ledger the shards of a request that it does not cover yet."""
    known = {
        symbol: [shard for shard, _ in ledger.shards_of(request.dataset, request.variant, symbol)]
        for symbol in request.symbols
    }
    new: list[Shard] = []
    for shard in request.shards():
        new += find_missing(shard, known[shard.symbol])
    ledger.add(request.dataset, request.variant, new)
