"""What the account API lists: the assets of the simulated market, and contracts on its stocks."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from mdstream.simulator.market import UNIVERSE
from mdstream.simulator.symbols import chain

_STREAMS = {"us_equity": "stocks", "crypto": "crypto"}
_FIXED = uuid.UUID("00000000-0000-4000-8000-000000000000")
_EXPIRED_WEEKS = 52
"""The contracts of a chain were there in each of so many weeks before, too, and are expired now."""


def assets(kind: str) -> list[dict[str, Any]]:
    """The assets of a class, with the fields that clients check."""
    return [
        {
            "id": _id(symbol),
            "class": kind,
            "symbol": symbol,
            "status": "active",
            "tradable": True,
            "exchange": "CRYPTO" if kind == "crypto" else "NASDAQ",
            "name": f"{symbol} of the simulator",
            "marginable": False,
            "shortable": False,
            "easy_to_borrow": False,
            "fractionable": True,
        }
        for symbol in UNIVERSE.get(_STREAMS.get(kind, ""), ())
    ]


def contracts(
    underlyings: Sequence[str], status: str, first: str = "", last: str = ""
) -> list[dict[str, Any]]:
    """The contracts on `underlyings` of a status, by symbol, that end between two days. Without a last day
    that is the next weekend, as at the service.
    """
    past = last or (datetime.now(UTC).date() + timedelta(days=7)).isoformat()
    names = [name for each in underlyings if each for name in chain(each)]
    listed = names if status == "active" else [n for name in names for n in _before(name)]
    found = [_contract(name, status) for name in sorted(listed)]
    return [each for each in found if first <= each["expiration_date"] <= past]


def _before(contract: str) -> list[str]:
    """The same strike and right, expired a year and more before."""
    root, right = contract[:-15], contract[-9:]
    ends = _expiry(contract)
    return [
        f"{root}{ends - timedelta(weeks=weeks):%y%m%d}{right}"
        for weeks in range(_EXPIRED_WEEKS, 2 * _EXPIRED_WEEKS, 4)
    ]


def _contract(symbol: str, status: str) -> dict[str, Any]:
    root = symbol[:-15]
    return {
        "id": _id(symbol),
        "symbol": symbol,
        "name": symbol,
        "status": status,
        "tradable": status == "active",
        "expiration_date": _expiry(symbol).isoformat(),
        "root_symbol": root,
        "underlying_symbol": root,
        "underlying_asset_id": _id(root),
        "type": "call" if symbol[-9] == "C" else "put",
        "style": "american",
        "strike_price": str(int(symbol[-8:]) / 1000),
        "size": "100",
    }


def _expiry(contract: str) -> date:
    return datetime.strptime(contract[-15:-9], "%y%m%d").replace(tzinfo=UTC).date()


def _id(symbol: str) -> str:
    return str(uuid.uuid5(_FIXED, symbol))
