"""Symbol patterns, and the symbols of the service that match them.

Symbols are looked up in the account API's list of assets (`/v2/assets`), by default those that trade now.
Contracts are looked up in its list of contracts (`Chain.listing`), which keeps them beyond their expiry
date. The service lists contracts of whole underlyings only: `GOOG*` finds those of GOOG, not of GOOGL. The
log says which underlyings such a pattern was looked up as.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from mdstream.config import BackfillSettings
from mdstream.errors import ConfigError, UnknownNameError, UnusableAnswerError
from mdstream.history.request import EVERYTHING
from mdstream.reading.arguments import list_symbols
from mdstream.session.budget import Budget
from mdstream.session.pages import PageRequest, pages
from mdstream.session.rest import Body, RestClient
from mdstream.store.query import When, parse_time, to_utc
from mdstream.streams import STREAMS
from mdstream.streams.datasets import history_of
from mdstream.streams.rest_spec import Chain
from mdstream.streams.symbols import why_no_symbol
from mdstream.text.patterns import find_matching, is_pattern
from mdstream.venues.alpaca.bodies import page_token_in
from mdstream.venues.alpaca.endpoints import ASSETS_PATH, STATUSES
from mdstream.venues.alpaca.limits import CONTRACTS_PAGE, FREE_PLAN
from mdstream.venues.alpaca.parameters import LIMIT

log = logging.getLogger(__name__)

_FOREVER = "2100-01-01"
"""Later than any expiry: without a limit, the service lists only contracts until the next weekend."""
_UNDERLYING = re.compile(r"[A-Z]{1,6}(?:\.[A-Z]{1,2}(?![A-Z]))?")


async def resolve_symbols(
    dataset: str,
    symbols: str | Sequence[str],
    start: When,
    config: BackfillSettings,
    status: str = "active",
) -> list[str]:
    """Replace each pattern in `symbols` by the symbols that it matches, in order.

    Contracts are looked up by underlying, so their pattern begins with a whole one: `AAPL*`, `AAPL2612*C*`,
    `BRK.B2612*` (or `BRKB2612*`, as contracts are named). It matches contracts that expire on `start` or
    later. Other patterns match assets of `status`: `active` ones, `inactive` ones (delisted), or `all`. `*`
    stays if one request can return all symbols.
    Raises `UnknownNameError` if a pattern matches nothing, `ConfigError` if it cannot be looked up, and
    what `RestClient.get` raises.
    """
    symbols = list_symbols(symbols)
    patterns = [symbol for symbol in symbols if is_pattern(symbol)]
    if not patterns or (EVERYTHING in patterns and history_of(dataset).everything):
        return symbols
    config.trading.require_keys(f"{patterns[0]!r}, a pattern that the service has to look up,")
    spec = STREAMS[dataset.partition(".")[0]]
    if not (spec.chain or spec.asset_classes):
        raise ConfigError(
            f"{patterns[0]!r} is a pattern, but the service does not list {spec.name}: give symbols"
        )
    async with RestClient(config.fetch, config.trading, Budget(FREE_PLAN, learns=True)) as client:
        if spec.chain:
            since = to_utc(parse_time(start, "start")).date()
            asked = await _list_chains(client, spec.chain, patterns, since)
            _report_open_patterns({pattern: asked[_parse_underlying(pattern)] for pattern in patterns})
            known = _drop_malformed(
                name if spec.chain.is_contract(name) else ""
                for listing in asked.values()
                for name in listing.symbols
            )
            underlyings = {
                _name_contracts(spec.chain, pattern): asked[_parse_underlying(pattern)].underlyings
                for pattern in patterns
            }
            symbols = [_name_contracts(spec.chain, s) if is_pattern(s) else s for s in symbols]
            return expand_patterns(symbols, sorted(known), underlyings)
        wanted = STATUSES if status == "all" else (status,)
        lookups = [_list_assets(client, kind, each) for kind in spec.asset_classes for each in wanted]
        found = await asyncio.gather(*lookups)
    return expand_patterns(symbols, sorted(_drop_malformed(name for names in found for name in names)))


def expand_patterns(
    symbols: Iterable[str], known: Sequence[str], underlyings: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Replace patterns by their matches in `known`. Raises `UnknownNameError` if one has none.

    `underlyings` has those that were looked up for each pattern of contracts.
    """
    names: dict[str, None] = {}
    for symbol in symbols:
        if not is_pattern(symbol):
            names[symbol] = None
            continue
        matching = find_matching(symbol, known)
        if not matching:
            problem = f"{symbol!r} matches none of the {len(known):,} symbols of the service"
            if underlyings:
                asked = " or ".join(underlyings[symbol])
                problem = (
                    f"{symbol!r} matches no contract of {asked} (a pattern begins with a whole underlying, "
                    "because the service lists contracts so)"
                )
            raise UnknownNameError.among(known, symbol, problem)
        names |= dict.fromkeys(matching)
    return list(names)


def _parse_underlying(pattern: str) -> str:
    if found := _UNDERLYING.match(pattern):
        return found[0]
    raise ConfigError(f"{pattern!r}: a pattern of contracts must begin with an underlying, as AAPL*")


def _name_contracts(chain: Chain, pattern: str) -> str:
    """Return a pattern as contracts are named: `BRKB2612*` for `BRK.B2612*`."""
    underlying = _parse_underlying(pattern)
    return chain.root_of(underlying) + pattern[len(underlying) :]


class _Listing(NamedTuple):
    """What the service lists under a name: the underlyings that were looked up, and contracts."""

    underlyings: list[str]
    symbols: list[str]


def _report_open_patterns(listings: Mapping[str, _Listing]) -> None:
    """Log the underlyings of patterns in which the underlying could go on, as in `GOOG*`."""
    asked = [
        f"{pattern} as {' or '.join(listing.underlyings)}"
        for pattern, listing in listings.items()
        if pattern[len(_parse_underlying(pattern)) :][:1] in {"*", "?", "["}
    ]
    if asked:
        log.warning(
            "contracts are listed by whole underlying: looked up %s; give others a pattern of their own",
            ", ".join(asked),
        )


async def _list_chains(
    client: RestClient, chain: Chain, patterns: Sequence[str], since: date
) -> dict[str, _Listing]:
    """Return what is listed for the underlying that each pattern begins with."""
    names = list(dict.fromkeys(map(_parse_underlying, patterns)))
    found = await asyncio.gather(*(_list_chain(client, chain, name, since) for name in names))
    return dict(zip(names, found, strict=True))


async def _list_chain(client: RestClient, chain: Chain, name: str, since: date) -> _Listing:
    """Return the contracts of the first underlying that `name` may mean and that has some."""
    asked: list[str] = []
    found: list[str] = []
    for underlying in chain.spellings_of(name):
        asked.append(underlying)
        lists = [_list_contracts(client, chain, underlying, status, since) for status in STATUSES]
        found += [symbol for symbols in await asyncio.gather(*lists) for symbol in symbols]
        if any(found):
            break
    return _Listing(asked, found)


class _ListingPage(NamedTuple):
    """A page of a list of assets or contracts; that of assets has only one."""

    symbols: list[str]
    page_token: str = ""

    @property
    def is_empty(self) -> bool:
        return not self.symbols


async def _list_assets(client: RestClient, kind: str, status: str) -> list[str]:
    async def read(body: Body) -> _ListingPage:
        return _ListingPage(_read_symbols(body.parse(ASSETS_PATH), ASSETS_PATH))

    return await _list(client, PageRequest(ASSETS_PATH, {"status": status, "asset_class": kind}), read)


async def _list(
    client: RestClient, request: PageRequest, read: Callable[[Body], Awaitable[_ListingPage]]
) -> list[str]:
    """Return the symbols of all pages. A page that cannot be read is requested again."""
    return [symbol async for page in pages(client, request, read) for symbol in page.symbols]


async def _list_contracts(
    client: RestClient, chain: Chain, root: str, status: str, since: date
) -> list[str]:
    query = {
        "underlying_symbols": root,
        "status": status,
        "expiration_date_gte": since.isoformat(),
        "expiration_date_lte": _FOREVER,
        LIMIT: str(CONTRACTS_PAGE),
    }

    async def read(body: Body) -> _ListingPage:
        answer = body.parse(chain.listing)
        if not isinstance(answer, dict):
            answer = {}
        return _ListingPage(_read_symbols(answer.get(chain.member), chain.listing), page_token_in(answer))

    return await _list(client, PageRequest(chain.listing, query), read)


def _read_symbols(records: Any, path: str) -> list[str]:
    """Return the symbol of each record; an empty text for a record that has none."""
    if not isinstance(records, list):
        raise UnusableAnswerError(f"unusable answer of {path}: not a list of records with a symbol")
    found = [record.get("symbol") if isinstance(record, dict) else None for record in records]
    return [name if isinstance(name, str) and not why_no_symbol(name) else "" for name in found]


def _drop_malformed(names: Iterable[str]) -> set[str]:
    """Return the symbols without the empty ones of malformed records, which are counted in the log."""
    every = list(names)
    if malformed := every.count(""):
        log.warning("records without a usable symbol in the list of the service, skipped: %d", malformed)
    return set(filter(None, every))
