"""One REST request with its checked parameters, and functions that look up symbols."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mdstream.simulator.encode import Time
from mdstream.simulator.past_records import Past

_PARTS = re.compile(r"(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")
"""A date or a time: everything before the fraction of a second, the fraction (up to ns), and the zone."""


class RestRefusal(Exception):
    """An HTTP error with a body like the service's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True, slots=True)
class Query:
    """A GET for one market. All methods raise `RestRefusal` if the service would refuse the request.

    `path` has the variables of the path, `parameters` the query. `past` returns the past of a symbol,
    `state` the state of the symbols that have one, `chain` the contracts of an underlying.
    """

    path: Mapping[str, str]
    parameters: Mapping[str, str]
    seed: int
    is_symbol: Callable[[str], bool]
    invalid: Collection[str]
    """Symbols that a fault makes invalid."""
    past: Callable[[str], Past]
    state: Callable[[Sequence[str]], dict[str, Any]]
    chain: Callable[[str], list[str]]
    now: int = field(default_factory=time.time_ns)

    def check(self, *known: str) -> None:
        """Refuse parameters that are not `known`."""
        if unknown := [name for name in self.parameters if name not in known]:
            raise RestRefusal(400, f"unexpected parameter(s): {', '.join(unknown)}")

    @property
    def single(self) -> str:
        """The symbol in the path; empty if there is none."""
        return self.valid([self.path["symbol"]])[0] if "symbol" in self.path else ""

    def symbols(self) -> list[str]:
        """Return the requested symbols, each once."""
        text = self.parameters.get("symbols", "")
        if not text:
            raise RestRefusal(400, "symbols is required")
        return self.valid(list(dict.fromkeys(text.split(","))))

    def valid(self, symbols: list[str], is_symbol: Callable[[str], bool] | None = None) -> list[str]:
        """Return `symbols`. One bad symbol fails the whole request, as it does at the service."""
        for symbol in symbols:
            if symbol in self.invalid or not (is_symbol or self.is_symbol)(symbol):
                raise RestRefusal(400, f"invalid symbol: {symbol}")
        return symbols

    def limit(self, default: int, most: int) -> int:
        """Return the largest number of rows for a page."""
        text = self.parameters.get("limit", str(default))
        if not text.isdigit() or not 1 <= int(text) <= most:
            raise RestRefusal(400, f"invalid limit: {text}")
        return int(text)

    def moment(self, name: str, default: int) -> int:
        """Return a time in ns since 1970; without a zone it is UTC."""
        text = self.parameters.get(name)
        if not text:
            return default
        parts = _PARTS.fullmatch(text)
        try:
            whole, fraction, zone = parts.groups(default="") if parts else ("", "", "")
            moment = datetime.fromisoformat(whole + zone)
        except ValueError:
            raise RestRefusal(400, f"invalid {name}: {text}") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return Time(int(moment.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0")))

    def after(self) -> tuple[str, int] | None:
        """Return symbol and index of the last item of the previous page; None for the first page."""
        token = self.parameters.get("page_token")
        if not token:
            return None
        try:
            symbol, _, index = base64.urlsafe_b64decode(token.encode()).decode().rpartition("|")
            return symbol, int(index)
        except ValueError:
            raise RestRefusal(400, "invalid page_token") from None


def page_token(symbol: str, index: int) -> str:
    """Return the token of the page after an item."""
    return base64.urlsafe_b64encode(f"{symbol}|{index}".encode()).decode()
