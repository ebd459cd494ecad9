"""Symbol patterns, and the symbols of the service that match them.

Symbols are looked up in the account API's list of assets (`/v2/assets`, those that trade now); contracts in
its list of contracts (`Chain.listing`, expired ones too), which holds a contract until its expiry date and
beyond.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from fnmatch import fnmatchcase
from typing import Any

import orjson

from mdstream.config import HistoryConfig
from mdstream.errors import ConfigError, ServerError, UnpackingError
from mdstream.handoff.packing import unpack
from mdstream.history.request import EVERYTHING
from mdstream.session.budget import Budget
from mdstream.session.rest import RestClient
from mdstream.store.query import as_list, is_pattern, parse_day
from mdstream.streams import STREAMS
from mdstream.streams.datasets import history_of
from mdstream.streams.rest import Chain
from mdstream.venues.alpaca.bodies import NEXT_PAGE_TOKEN
from mdstream.venues.alpaca.endpoints import ASSETS_PATH
from mdstream.venues.alpaca.limits import CONTRACTS_PAGE, FREE_PLAN

_ANSWER_BYTES = 256 * 1024 * 1024
_FOREVER = "2100-01-01"
"""The service's own last expiry is the next weekend's."""
_UNDERLYING = re.compile(r"[A-Z]{1,6}")


async def named(
    dataset: str, symbols: str | Sequence[str], start: str | date | datetime, config: HistoryConfig
) -> list[str]:
    """`symbols` with each pattern replaced by the symbols that it matches, in their order.

    Contracts are looked up by underlying, so a pattern of theirs begins with one: `AAPL*`, `AAPL2612*C*`;
    it matches those whose last day is `start` or later. `*` stays where all there is can be asked for
    at once. Raises `ConfigError` for a pattern that matches nothing or cannot be looked up, and what
    `RestClient.get` raises.
    """
    symbols = as_list(symbols)
    patterns = [symbol for symbol in symbols if is_pattern(symbol)]
    if not patterns or (EVERYTHING in patterns and history_of(dataset).everything):
        return symbols
    if config.trading.lacks_keys:
        raise ConfigError(
            f"{patterns[0]!r} is a pattern, which the service has to look up: set APCA_API_KEY_ID and "
            "APCA_API_SECRET_KEY, or name a server, as --data-url http://127.0.0.1:8765 (mdstream simulate)"
        )
    spec = STREAMS[dataset.partition(".")[0]]
    if not (spec.chain or spec.asset_classes):
        raise ConfigError(
            f"{patterns[0]!r} is a pattern, and nobody lists the symbols of {spec.name}: name them"
        )
    async with RestClient(config.fetch, config.trading, Budget(FREE_PLAN, learns=True)) as client:
        if spec.chain:
            roots = dict.fromkeys(map(_underlying, patterns))
            asked = [
                _contracts(client, spec.chain, root, status, parse_day(start))
                for root in roots
                for status in ("active", "inactive")
            ]
        else:
            asked = [_assets(client, kind) for kind in spec.asset_classes]
        found = await asyncio.gather(*asked)
    return matched(symbols, sorted({name for names in found for name in names}))


def matched(symbols: Iterable[str], known: Sequence[str]) -> list[str]:
    """Patterns replaced by those of `known`. Raises `ConfigError` for one that matches none."""
    names: dict[str, None] = {}
    for symbol in symbols:
        if not is_pattern(symbol):
            names[symbol] = None
            continue
        fitting = [name for name in known if fnmatchcase(name, symbol)]
        if not fitting:
            raise ConfigError(f"no symbol fits {symbol!r}, of {len(known):,} that the service has")
        names |= dict.fromkeys(fitting)
    return list(names)


def _underlying(pattern: str) -> str:
    if found := _UNDERLYING.match(pattern):
        return found[0]
    raise ConfigError(f"{pattern!r}: a pattern of contracts begins with their underlying, as AAPL*")


async def _assets(client: RestClient, kind: str) -> list[str]:
    answer = await _get(client, ASSETS_PATH, {"status": "active", "asset_class": kind})
    return _symbols(answer, ASSETS_PATH)


async def _contracts(client: RestClient, chain: Chain, root: str, status: str, since: date) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        asked = {
            "underlying_symbols": root,
            "status": status,
            "expiration_date_gte": since.isoformat(),
            "expiration_date_lte": _FOREVER,
            "limit": str(CONTRACTS_PAGE),
            **({"page_token": token} if token else {}),
        }
        answer = await _get(client, chain.listing, asked)
        page = answer.get(chain.member) if isinstance(answer, dict) else None
        found += _symbols(page, chain.listing)
        following = answer.get(NEXT_PAGE_TOKEN)
        if not following:
            return found
        if following == token:
            raise ServerError(f"page token {token[:40]!r} came twice")
        token = following


async def _get(client: RestClient, path: str, parameters: Mapping[str, str]) -> Any:
    body = await client.get(path, parameters)
    try:
        return orjson.loads(unpack(body.data, body.packing, _ANSWER_BYTES))
    except (UnpackingError, orjson.JSONDecodeError) as error:
        raise ServerError(f"unusable answer of {path}: {error}") from error


def _symbols(records: Any, path: str) -> list[str]:
    try:
        return [str(record["symbol"]) for record in records]
    except (TypeError, KeyError) as error:
        raise ServerError(f"unusable answer of {path}: no list of records with a symbol") from error
