"""Which records of a body were requested: the feed puts the symbols of the request before the body.

A record of another symbol is a reject. A request that names an underlying is one for its chain: contracts
were requested, and nothing else. A contract's name does not say of which underlying it is: those of `SPX`
may begin with `SPXW`, and after a merger with the symbol of another issuer.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from mdstream.streams.rest_spec import Chain

NOT_REQUESTED = "its symbol was not requested"
"""Reason of the rejects."""


class Requested:
    """The symbols that one body was requested for, as in the JSON of `PayloadKind.REQUESTED`."""

    def __init__(self, data: bytes | memoryview, chain: Chain | None) -> None:
        self._names = frozenset(orjson.loads(data))
        self._chain = chain if chain and not all(map(chain.is_contract, self._names)) else None

    def find_others(self, symbols: Iterable[str]) -> set[str]:
        """Return those of `symbols` that were not requested."""
        if self._chain is None:
            return set(symbols) - self._names
        return {symbol for symbol in symbols if not self._chain.is_contract(symbol)}
