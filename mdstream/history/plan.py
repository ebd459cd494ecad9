"""Check and estimate of a request before it is fetched, and what of it is to be fetched."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple

from mdstream.config import Endpoint
from mdstream.errors import ConfigError
from mdstream.history.ledger import LEDGER, KnownShard, Ledger, LedgerView, Progress, find_missing
from mdstream.history.request import BackfillRequest, Shard
from mdstream.store.query import to_utc
from mdstream.venues.alpaca.sessions import NEW_YORK

log = logging.getLogger(__name__)

EMPTY_DAYS = 3
"""How many days an empty shard is asked again, from when it was first found empty."""

_DAY_S = 86_400


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


def check(request: BackfillRequest, data: Endpoint) -> None:
    """Raise `ConfigError` if the service serves a request only with keys, and none are set."""
    if request.history.needs_keys:
        data.require_keys(f"history of {request.dataset}")


def estimate(request: BackfillRequest, store: Path, per_minute: int) -> Estimate:
    """Estimate what a request takes at `per_minute` REST requests.

    Fetches nothing, and creates no store. What a repair would find is not part of it.
    """
    known: dict[str, list[KnownShard]] = {}
    density: dict[str, float] = {}
    begun: dict[Shard, int] = {}  # rows that are staged
    if (store / "_mdstream" / LEDGER).exists():
        with LedgerView(store / "_mdstream") as ledger:
            known = _read_known(request, ledger)
            density = ledger.density(request.dataset, request.variant)
            open_shards = ledger.find(request.dataset, request.variant, "open")
            begun = {p.shard: p.rows for p in open_shards if p.pages}
    work = find_work(request, known, time.time())
    again = set(work.again)
    left = [
        *work.new,
        *(
            each.shard
            for shards in known.values()
            for each in shards
            if each.id in again
            or (each.state == "open" and _overlaps(each.shard, request.first, request.past))
        ),
    ]
    symbols = {shard.symbol for shard in left}
    rows, requests = None, len(left)
    if density:
        usual = sum(density.values()) / len(density)
        each_rows = [
            max(0.0, density.get(s.symbol, usual) * (s.past - s.first) - begun.get(s, 0)) for s in left
        ]
        rows = round(sum(each_rows))
        requests = sum(max(1, math.ceil(count / request.history.limit)) for count in each_rows)
    minutes = max(0, requests - per_minute) / per_minute
    already = len(request.symbols) - len(symbols)
    return Estimate(len(left), sum(shard in begun for shard in left), already, rows, requests, minutes * 60)


class ShardWork(NamedTuple):
    """What a request adds to the ledger."""

    new: list[Shard]
    """Shards that it does not have."""
    again: list[int]
    """Ids of shards that are fetched again."""
    outdated: int = 0
    """Those of them that are adjusted, and would have another scale than the rest of their series."""


def find_work(
    request: BackfillRequest,
    known: Mapping[str, Sequence[KnownShard]],
    now: float,
    gaps: Collection[Shard] = (),
) -> ShardWork:
    """Return the shards to add and those to fetch again, given the `known` ones by symbol.

    A shard is fetched again if

    - it is in the range of `refetch` (a refetch that was interrupted goes on, and does not begin anew);
    - it was empty, has a session, and was first found empty less than `EMPTY_DAYS` ago, because the service
      may have the rows by now; at a repair, however long ago;
    - it overlaps one of `gaps`, which a repair has found;
    - it is adjusted, and its series is extended, or was requested on another day than the rest of it: a
      split in between would leave two scales in one series. (`reopen_outdated` does it after the run.)

    `now` is Unix time.
    """
    new: list[Shard] = []
    for shard in request.shards():
        new += find_missing(shard, [each.shard for each in known.get(shard.symbol, ())])
    extended = {shard.symbol for shard in new}
    every = [each for shards in known.values() for each in shards]
    again = {each.id for each in every if _is_due(request, each, now)}
    if span := request.refetch:
        inside = [each for each in every if _overlaps(each.shard, *span)]
        if not any(each.replaces > 0 and each.state != "stored" for each in inside):
            again |= {each.id for each in inside if each.state in ("stored", "empty")}
    for gap in gaps:
        again |= {
            each.id
            for each in known.get(gap.symbol, ())
            if each.state == "stored" and _overlaps(each.shard, gap.first, gap.past)
        }
    outdated: set[int] = set()
    if request.is_adjusted:
        for symbol, shards in known.items():
            outdated |= _find_outdated(shards, again, symbol in extended, now)
    return ShardWork(new, sorted(again | outdated), len(outdated))


def _find_outdated(
    shards: Sequence[KnownShard], again: Collection[int], is_extended: bool, now: float
) -> set[int]:
    """Return the shards of an adjusted series that must be fetched again, so that all have one scale.

    If the series gets new rows, these are all others with rows. If an interrupted run is resumed, or rows
    of several days are mixed, they are those that were not requested today.
    """
    filled = [each for each in shards if each.rows and each.id not in again]
    if is_extended or any(each.rows and each.id in again for each in shards):
        return {each.id for each in filled}
    days = {day_of(each.asked) for each in filled}
    if len(days) > 1 or any(each.state == "open" for each in shards):
        return {each.id for each in filled if day_of(each.asked) != day_of(now)}
    return set()


def _is_due(request: BackfillRequest, each: KnownShard, now: float) -> bool:
    """Return whether an empty shard is to be asked again."""
    shard = each.shard
    if each.state != "empty" or not _overlaps(shard, request.first, request.past):
        return False
    if not request.repair:
        if now - each.empty_since > EMPTY_DAYS * _DAY_S:
            return False
        if request.history.sparse and each.empty_since - shard.past / 1e9 > EMPTY_DAYS * _DAY_S:
            return False  # it was no longer new when it was empty, and most are empty
    return not request.is_closed(shard.first, shard.past)


def add_work(
    request: BackfillRequest, ledger: Ledger, now: float, gaps: Collection[Shard] = ()
) -> Sequence[int]:
    """Add the work of a request to the ledger. Return the ids of the shards that are fetched again.

    Raises `ConfigError` if rows with another `asof` would be mixed with those of the request.
    """
    for variant in filter(request.clashes_with, ledger.variants(request.dataset)):
        if mixed := ledger.symbols_of(request.dataset, variant).intersection(request.symbols):
            raise ConfigError(
                f"asof {request.asof or 'today'!r}: the store has {min(mixed)} as {variant!r}, and both "
                "would be one series; use the same asof, or another store"
            )
    work = find_work(request, _read_known(request, ledger), now, gaps)
    _log_outdated(request, work.outdated)
    ledger.reopen(work.again)
    ledger.add(request.dataset, request.variant, work.new)
    return work.again


def reopen_outdated(
    request: BackfillRequest, ledger: Ledger, now: float, symbols: Iterable[str]
) -> Collection[int]:
    """Let the shards be fetched again whose scale is not that of rows of today. Return their ids.

    Only the fetched rows say so: an empty shard that was asked again may have stayed empty.
    """
    outdated: set[int] = set()
    for symbol in symbols if request.is_adjusted else ():
        shards = ledger.shards_of(request.dataset, request.variant, symbol)
        outdated |= _find_outdated(shards, (), False, now)
    _log_outdated(request, len(outdated))
    ledger.reopen(outdated)
    return outdated


def sort_shards(request: BackfillRequest, shards: Iterable[Progress]) -> list[Progress]:
    """Return shards in the order in which they are fetched: by time, those that were empty last.

    Adjusted series come one after another, because each is held back until all of it is fetched.
    """
    order = {symbol: number for number, symbol in enumerate(request.symbols)}

    def place(progress: Progress) -> tuple[int, ...]:
        symbol, first, _ = progress.shard
        is_late = symbol not in request.urgent
        if request.is_adjusted:
            return is_late, order[symbol], first
        return progress.empty_since > 0, is_late, first, order[symbol]

    return sorted(shards, key=place)


def why_no_rows(shard: Shard, rejected: int) -> str:
    """Return why a shard has no rows any more."""
    day = f"{to_utc(shard.first):%Y-%m-%d}"
    if rejected:
        return f"{rejected:,} records of {day} were rejected, and no row is left"
    return f"the service has no rows of {day} any more"


def _log_outdated(request: BackfillRequest, shards: int) -> None:
    if shards:
        log.warning(
            "%s: %d stored shards are fetched again, so that all adjusted bars have one scale",
            request.dataset,
            shards,
        )


def _read_known(request: BackfillRequest, ledger: LedgerView) -> dict[str, list[KnownShard]]:
    return {
        symbol: ledger.shards_of(request.dataset, request.variant, symbol) for symbol in request.symbols
    }


def is_wanted(request: BackfillRequest, shard: Shard, replaces: int) -> bool:
    """Return whether a request fetches a shard that is not stored: it is in its range, or is fetched again.

    If a table has lost rows of an adjusted series, all of it is fetched again.
    """
    is_again = replaces != 0 if request.is_adjusted else replaces > 0
    return is_again or _overlaps(shard, request.first, request.past)


def _overlaps(shard: Shard, first: int, past: int) -> bool:
    return shard.first < past and shard.past > first


def day_of(at: float) -> date:
    """Return the day in New York of a Unix time: splits take effect between two of them."""
    return datetime.fromtimestamp(at, NEW_YORK).date()
