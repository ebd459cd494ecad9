"""The contracts that a stream follows for its underlyings: the rule, and what is followed now.

A chain has thousands of contracts, and a plan allows few subscriptions. So for each underlying a number of
contracts is followed, and each fetch of its chain decides anew which. `choose_contracts` is the rule. It is
pure, and keeps what it can, so that the ranks of contracts may change without an exchange.

What is followed is in a file of the run, too: a feed that replaces a killed one subscribes to the same
contracts at once, also while REST does not answer.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import date
from pathlib import Path

from mdstream.streams.rest_spec import Chain

log = logging.getLogger(__name__)

_KEPT_WITHIN = 2
"""A followed contract is kept while it is among the nearest `_KEPT_WITHIN` times the number to follow."""


def choose_contracts(
    chain: Chain, listed: Iterable[str], followed: Set[str], count: int, today: date
) -> list[str]:
    """Return at most `count` contracts to follow of those that a chain lists, the nearest first.

    Those of `followed` are kept while they are listed, have not expired, and are among the nearest
    2 × `count`. The nearest of the others fill the free places.

    Contracts that expired before `today` do not count. If all have, the market is a recorded or simulated
    one, and dates say nothing.
    """
    contracts = sorted(set(listed))
    alive = [c for c in contracts if chain.expiry_of(c) >= today] or contracts
    near = chain.nearest(alive, _KEPT_WITHIN * count)
    kept = set([c for c in near if c in followed][:count])
    new = set([c for c in near if c not in kept][: count - len(kept)])
    return [c for c in near if c in kept or c in new]


class FollowedContracts:
    """The contracts that are followed for each underlying, in memory and in the file `path`.

    Those of an underlying that is no longer subscribed remain, so that a new subscription begins with them.
    """

    def __init__(self, chain: Chain | None, count: int, path: Path) -> None:
        self._chain = chain
        self._count = count
        self._path = path
        self._followed: dict[str, Sequence[str]] = {}
        self._has_warned = False

    def find(self, underlying: str) -> Sequence[str]:
        """Return the contracts that are followed for `underlying`."""
        return self._followed.get(underlying, ())

    def update(self, underlying: str, listed: Iterable[str], today: date) -> bool:
        """Follow the chain of `underlying` as the service lists it now; return whether that is a change."""
        assert self._chain is not None, "only streams with a chain fetch chains"
        before = self.find(underlying)
        chosen = choose_contracts(self._chain, listed, set(before), self._count, today)
        self._followed[underlying] = chosen
        if set(chosen) == set(before):
            return False
        self._save()
        return True

    def restore(self) -> int:
        """Follow what a killed predecessor followed; return the number of contracts."""
        if self._chain is None:
            return 0
        try:
            self._followed = _parse(self._path.read_bytes(), self._chain)
        except FileNotFoundError:
            self._followed = {}  # it had not fetched a chain
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read: %s; contracts come with the next fetch", self._path, error)
        return sum(map(len, self._followed.values()))

    def _save(self) -> None:
        """Write the file atomically. Without room, the previous one remains, and the stream continues."""
        new = self._path.with_name(self._path.name + ".new")
        try:
            new.write_text(json.dumps(self._followed))
            os.replace(new, self._path)
        except OSError as error:
            if not self._has_warned:
                text = "%s cannot be written: %s; a process that replaces this one must fetch chains first"
                log.warning(text, self._path, error)
            self._has_warned = True


def _parse(data: bytes, chain: Chain) -> dict[str, Sequence[str]]:
    """Return underlying → contracts. Raises ValueError if `data` is anything else."""
    found = json.loads(data)
    if not isinstance(found, Mapping):
        raise ValueError("not an object")
    for contracts in found.values():
        if not isinstance(contracts, list):
            raise ValueError("not a list of contracts")
        if not all(isinstance(each, str) and chain.is_contract(each) for each in contracts):
            raise ValueError("a name is not a contract")
    return dict(found)
