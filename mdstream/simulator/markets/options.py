"""Options: trades and quotes in msgpack, chains of contracts, and the account API's list of contracts."""

from __future__ import annotations

import re
import uuid
import zlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from mdstream.simulator.answers import answer_history, answer_latest, answer_states
from mdstream.simulator.encode import Time
from mdstream.simulator.generator import Generator, Maker, Message, base_price
from mdstream.simulator.markets.declaration import Market, Route
from mdstream.simulator.markets.stocks import PRICES, STOCKS
from mdstream.simulator.past_records import SECOND, Past, Record
from mdstream.simulator.rest_query import Query, page_token
from mdstream.streams.options import root_of
from mdstream.venues.alpaca.bodies import NEXT_PAGE_TOKEN
from mdstream.venues.alpaca.endpoints import CONTRACTS_PATH
from mdstream.venues.alpaca.limits import CHAIN_PAGE, CONTRACTS_PAGE, OPTION_SYMBOLS

_UNIVERSE = (
    "AAPL261204C00225000 AAPL261204P00225000 AAPL261218C00230000 AAPL261218P00230000 "
    "SPY261204C00590000 SPY261204P00590000 SPY261218C00595000 SPY261218P00585000"
)
_EXCHANGES = "ABCDEHIJMNPQTUWXZ"
_CONDITIONS = "aIabfgS"

_FIRST_EXPIRY = date(2026, 12, 4)
_EXPIRIES = 4
"""Weekly expiries of a chain."""
_STRIKES = 12
"""Strikes of an expiry, around the price of the underlying."""
_EXPIRED_WEEKS = 52
"""Weeks between a chain's contracts and the newest of its expired ones."""

_NAMESPACE = uuid.UUID("00000000-0000-4000-8000-000000000000")


class OptionMessages(Generator):
    """Messages of options."""

    stream = "options"
    universe = tuple(_UNIVERSE.split())

    def makers(self) -> dict[str, tuple[float, Maker]]:
        return {"trades": (30.0, self._trade), "quotes": (60.0, self._quote)}

    def _premium(self, symbol: str) -> float:
        price = self._prices.get(symbol) or 0.5 + zlib.crc32(symbol.encode()) % 900 / 100
        price = max(0.01, price * (1 + self.random.gauss(0, 0.002)))
        self._prices[symbol] = price
        return max(0.01, round(price, 2))

    def _trade(self, symbol: str, at: Time) -> Message:
        r = self.random
        deal = {"p": self._premium(symbol), "s": r.randint(1, 40)}
        codes = {"x": r.choice(_EXCHANGES), "c": r.choice(_CONDITIONS)}
        return {"T": "t", "S": symbol, "t": _coarse(at), **deal, **codes}

    def _quote(self, symbol: str, at: Time) -> Message:
        r = self.random
        bid = self._premium(symbol)
        sides = {"bx": r.choice(_EXCHANGES), "bp": bid, "bs": r.randint(1, 500), "ax": r.choice(_EXCHANGES)}
        sides |= {"ap": round(bid + 0.01 * r.randint(1, 9), 2), "as": r.randint(1, 500)}
        return {"T": "q", "S": symbol, "t": _coarse(at), **sides, "c": "A"}


def _coarse(at: Time) -> Time:
    """Return a multiple of 256 ns: the real source stores its times as float64 nanoseconds."""
    return Time(at - at % 256)


class OptionPast(Past):
    """The records of one contract."""

    stream = "options"

    def base_price(self) -> float:
        return 0.5 + super().base_price() % 9

    def trade(self, at: int, index: int) -> Record:
        return {**super().trade(at, index), "x": self.exchange(index, 3), "c": "aIS"[index % 3]}

    def quote(self, at: int, index: int) -> Record:
        exchanges = {"bx": self.exchange(index, 6), "ax": self.exchange(index, 7)}
        return {**super().quote(at, index), **exchanges, "c": "A"}

    def snapshot(self, now: int) -> Record:
        u = self.unit(now // SECOND, 11)
        others = {"gamma": 0.0279, "rho": 0.0611, "theta": -0.1257, "vega": 0.1466}
        greeks = {"delta": round(u, 6), **others}
        return {**super().snapshot(now), "greeks": greeks, "impliedVolatility": round(0.2 + u / 4, 6)}


# -- chains


def chain(underlying: str) -> list[str]:
    """Return the contracts on `underlying`: strikes around its price, on the next Fridays of 2026."""
    price = base_price(underlying, PRICES)
    step = 1 if price < 100 else 5
    middle = round(price / step) * step
    found = set()
    for week in range(_EXPIRIES):
        expiry = (_FIRST_EXPIRY + timedelta(weeks=week)).strftime("%y%m%d")
        for i in range(-_STRIKES // 2, _STRIKES // 2):
            strike = max(1, middle + i * step)
            found |= {f"{root_of(underlying)}{expiry}{right}{strike * 1000:08d}" for right in "CP"}
    return sorted(found)


def _answer_chain(query: Query) -> Any:
    """Answer with a page of the chain of the underlying in the path."""
    [underlying] = query.valid([query.path["underlying"]], STOCKS.is_symbol)
    limit = query.limit(100, CHAIN_PAGE)
    listed = query.chain(underlying)
    first = listed.index(after[0]) + 1 if (after := query.after()) else 0
    page, more = listed[first : first + limit], first + limit < len(listed)
    return {"snapshots": query.state(page), NEXT_PAGE_TOKEN: page_token(page[-1], 1) if more else None}


# -- the account API's list


def contracts(
    underlyings: Sequence[str], status: str, first: str = "", last: str = ""
) -> list[dict[str, Any]]:
    """Return the contracts on `underlyings` of a status, by symbol, that expire between two days.

    Without a last day, that is a week from now.
    """
    past = last or (datetime.now(UTC).date() + timedelta(days=7)).isoformat()
    found = []
    for underlying in filter(None, underlyings):
        listed = chain(underlying)
        if status != "active":
            listed = [expired for name in listed for expired in _expired_contracts(name)]
        found += [_contract(name, underlying, status) for name in listed]
    found.sort(key=lambda each: str(each["symbol"]))
    return [each for each in found if first <= each["expiration_date"] <= past]


def _expired_contracts(contract: str) -> list[str]:
    """Return contracts of the same strike and right that expired a year or more earlier."""
    root, right, expiry = contract[:-15], contract[-9:], _expiry(contract)
    return [
        f"{root}{expiry - timedelta(weeks=weeks):%y%m%d}{right}"
        for weeks in range(_EXPIRED_WEEKS, 2 * _EXPIRED_WEEKS, 4)
    ]


def _contract(symbol: str, underlying: str, status: str) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid5(_NAMESPACE, symbol)),
        "symbol": symbol,
        "name": symbol,
        "status": status,
        "tradable": status == "active",
        "expiration_date": _expiry(symbol).isoformat(),
        "root_symbol": symbol[:-15],
        "underlying_symbol": underlying,
        "underlying_asset_id": str(uuid.uuid5(_NAMESPACE, underlying)),
        "type": "call" if symbol[-9] == "C" else "put",
        "style": "american",
        "strike_price": str(int(symbol[-8:]) / 1000),
        "size": "100",
    }


def _expiry(contract: str) -> date:
    return datetime.strptime(contract[-15:-9], "%y%m%d").replace(tzinfo=UTC).date()


def _answer_contracts(query: Query) -> Any:
    """Answer with a page of the account API's list."""
    limit = query.limit(100, CONTRACTS_PAGE)
    names = ("underlying_symbols", "status", "expiration_date_gte", "expiration_date_lte")
    underlyings, status, earliest, last_day = (query.parameters.get(name, "") for name in names)
    listed = contracts(underlyings.split(","), status or "active", earliest, last_day)
    first = after[1] if (after := query.after()) else 0
    past = first + limit
    token = page_token("contracts", past) if past < len(listed) else None
    return {"option_contracts": listed[first:past], NEXT_PAGE_TOKEN: token}


_PREFIX = "/v1beta1/options"

OPTIONS = Market(
    generator=OptionMessages,
    past=OptionPast,
    symbol_form=re.compile(r"([A-Z]{1,5}[0-9]?|[A-Z]{1,6})\d{6}[CP]\d{8}"),
    routes=(
        Route(f"{_PREFIX}/trades/latest", answer_latest("trades")),
        Route(f"{_PREFIX}/quotes/latest", answer_latest("quotes")),
        Route(f"{_PREFIX}/trades", answer_history("trades")),
        Route(f"{_PREFIX}/bars", answer_history("bars")),
        Route(
            f"{_PREFIX}/snapshots",
            answer_states("snapshots", paged=True, most=OPTION_SYMBOLS),
            answer_states("snapshots", paged=True, most=OPTION_SYMBOLS),
        ),
        Route(f"{_PREFIX}/snapshots/{{underlying}}", _answer_chain, _answer_chain),
        Route(CONTRACTS_PATH, _answer_contracts),
    ),
    state_members={"trades": "latestTrade", "quotes": "latestQuote"},
    chain=chain,
)
