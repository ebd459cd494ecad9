"""What a request would take, and whether it can come to anything."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from mdstream.config import Endpoint
from mdstream.errors import ConfigError
from mdstream.history.ledger import LEDGER, Ledger, LedgerView, Progress, missing
from mdstream.history.request import Request, Shard


class Estimate(NamedTuple):
    """What a request would take, before it is made."""

    shards: int
    """To fetch."""
    begun: int
    """Of these, those of which some pages are fetched."""
    already: int
    """Symbols of which nothing is left to fetch."""
    rows: int | None
    """About so many, by what the store has of these symbols, or of others; None if it has nothing."""
    requests: int
    """A page each: about so many, or, where the rows are not known, one a shard, which is the least."""
    seconds: float
    """What so many requests take at the budget."""


def check(request: Request, store: Path, data: Endpoint) -> None:
    """Refuse what cannot come to anything. Raises `ConfigError`."""
    if ":/" in str(store):
        url = str(store).replace(":/", "://", 1)  # a path has dropped one
        raise ConfigError(
            f"store {url!r}: a backfill fills a folder; an object store takes what is recorded"
        )
    if data.lacks_keys and not request.spec.always_open:
        raise ConfigError(
            "no keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY, or name a server, as --data-url "
            "http://127.0.0.1:8765 (mdstream simulate)"
        )


def estimate(request: Request, store: Path, per_minute: int) -> Estimate:
    """Estimate what a request would take at `per_minute` REST requests.

    Nothing is fetched, and nothing written where there is no store yet.
    """
    stored: dict[str, list[Shard]] = {}
    density: dict[str, float] = {}
    begun: dict[Shard, Progress] = {}
    if (store / "_mdstream" / LEDGER).exists():
        with LedgerView(store / "_mdstream") as ledger:
            for symbol in request.symbols:
                every = ledger.known(request.dataset, request.variant, symbol)
                stored[symbol] = [shard for shard, state in every if state != "open"]
            density = ledger.density(request.dataset, request.variant)
            begun = {p.shard: p for p in ledger.in_state(request.dataset, request.variant, "open")}
    left = [part for shard in request.shards() for part in missing(shard, stored.get(shard.symbol, ()))]
    symbols = {shard.symbol for shard in left}
    rows, requests = None, len(left)
    if density:
        usual = sum(density.values()) / len(density)
        each = [
            max(0.0, density.get(s.symbol, usual) * (s.past - s.first) - _staged(begun.get(s)))
            for s in left
        ]
        rows = round(sum(each))
        requests = sum(max(1, math.ceil(count / request.history.limit)) for count in each)
    minutes = max(0, requests - per_minute) / per_minute
    already = len(request.symbols) - len(symbols)
    part = sum(begun[shard].pages > 0 for shard in left if shard in begun)
    return Estimate(len(left), part, already, rows, requests, minutes * 60)


def _staged(progress: Progress | None) -> int:
    return progress.rows if progress else 0


def note_shards(request: Request, ledger: Ledger) -> None:
    """Note the shards of a request that nobody has asked for before."""
    known = {
        symbol: [shard for shard, _ in ledger.known(request.dataset, request.variant, symbol)]
        for symbol in request.symbols
    }
    new: list[Shard] = []
    for shard in request.shards():
        new += missing(shard, known[shard.symbol])
    ledger.add(request.dataset, request.variant, new)
