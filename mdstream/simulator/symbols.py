"""Which symbols the simulated service knows, and the contracts it lists on an underlying."""

from __future__ import annotations

import re
from datetime import date, timedelta

from mdstream.simulator.market import base_price

_FORMS = {
    "stocks": re.compile(r"[A-Z][A-Z0-9.]{0,9}"),
    "news": re.compile(r"[A-Z][A-Z0-9./]{0,11}"),
    "crypto": re.compile(r"[A-Z0-9]{2,8}/[A-Z]{3,4}"),
    "options": re.compile(r"([A-Z]{1,5}[0-9]?|[A-Z]{1,6})\d{6}[CP]\d{8}"),
}

_EXPIRIES = 4
_STRIKES = 12


def is_valid(stream: str, symbol: str) -> bool:
    """Whether `symbol` has the form of one of `stream`."""
    return _FORMS[stream].fullmatch(symbol) is not None


def chain(underlying: str) -> list[str]:
    """Contracts on `underlying`: strikes around its price, on the next Fridays of 2026."""
    price = base_price(underlying)
    step = 1 if price < 100 else 5
    middle = round(price / step) * step
    first = date(2026, 12, 4)
    found = []
    for week in range(_EXPIRIES):
        expiry = (first + timedelta(weeks=week)).strftime("%y%m%d")
        for i in range(-_STRIKES // 2, _STRIKES // 2):
            strike = max(1, middle + i * step)
            found += [f"{underlying}{expiry}{right}{strike * 1000:08d}" for right in "CP"]
    return sorted(set(found))
