"""Adjusted series: a series is stored as a whole or not at all, because its rows have one scale.

    fetched shard ─► held ─► all others of its symbol are fetched, on one day ─► filed ─► one commit
                      └────► one of them fails ─► staged for the next run; what is stored stays as it is

A split changes all rows of a series. So if only some of its shards were replaced, their prices would not
fit the others. A series of which nothing was stored before has nothing that new rows could contradict: what
could be fetched of it is filed at the end.

Shards of other requests are filed as they come.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from mdstream.history.ledger import KnownShard, Ledger, Progress
from mdstream.history.plan import day_of, is_wanted
from mdstream.history.request import BackfillRequest
from mdstream.history.status import Status

log = logging.getLogger(__name__)

_UNCHANGED = "its stored series is unchanged"


class SeriesGate:
    """Holds fetched shards back until the series of their symbol is whole."""

    _held: dict[str, list[Progress]]
    _left: Counter[str]
    """How many shards of a symbol are still to be fetched."""

    def __init__(self, request: BackfillRequest, ledger: Ledger) -> None:
        self._request = request
        self._ledger = ledger
        self._held = {}
        self._left = Counter()

    @property
    def symbols(self) -> Collection[str]:
        """The symbols of which shards are held."""
        return self._held.keys()

    def add(self, progress: Progress) -> Sequence[Progress]:
        """Hold a fetched shard, or return it if it may be filed at once."""
        if not self._request.is_adjusted:
            return [progress]
        self._held.setdefault(progress.shard.symbol, []).append(progress)
        return ()

    def begin(self, waiting: Iterable[Progress]) -> list[Progress]:
        """Note what is to be fetched. Return the held shards of series that lack none of it."""
        self._left = Counter(progress.shard.symbol for progress in waiting)
        return [each for symbol in [*self._held] if not self._left[symbol] for each in self._take(symbol)]

    def end(self, symbol: str) -> Sequence[Progress]:
        """Note that one of these shards is done. Return the shards to be filed if it was the last one."""
        self._left[symbol] -= 1
        return () if self._left[symbol] else self._take(symbol)

    def drop(self, shards: Collection[int]) -> None:
        """Forget shards that are fetched again."""
        for symbol, held in [*self._held.items()]:
            self._held[symbol] = [each for each in held if each.id not in shards]
            if not self._held[symbol]:
                del self._held[symbol]

    def take_new(self) -> list[Progress]:
        """Return the held shards of series of which nothing was stored before, whole or not."""
        new = [symbol for symbol in self._held if not self._replaces(symbol)]
        return [
            each for symbol in new if _is_of_one_day(self._shards_of(symbol)) for each in self._pop(symbol)
        ]

    def report_unchanged(self, status: Status) -> None:
        """Say in `status` of which symbols the stored series could not be replaced."""
        for symbol in self._request.symbols if self._request.is_adjusted else ():
            if symbol in status.failed:
                if self._replaces(symbol):
                    status.failed[symbol] += f"; {_UNCHANGED}"
            elif symbol in self._held and status.until:
                log.warning("%s: a part cannot be fetched yet; %s until the next run", symbol, _UNCHANGED)
            elif symbol in self._held:
                status.failed[symbol] = f"parts requested on two days; run the same again; {_UNCHANGED}"

    def _replaces(self, symbol: str) -> bool:
        """Return whether shards of a symbol that are not stored replace rows that are."""
        return any(each.replaces for each in self._shards_of(symbol))

    def _take(self, symbol: str) -> list[Progress]:
        return self._pop(symbol) if _is_whole(self._request, self._shards_of(symbol)) else []

    def _pop(self, symbol: str) -> list[Progress]:
        return self._held.pop(symbol, [])

    def _shards_of(self, symbol: str) -> list[KnownShard]:
        return self._ledger.shards_of(self._request.dataset, self._request.variant, symbol)


def _is_whole(request: BackfillRequest, shards: Sequence[KnownShard]) -> bool:
    """Return whether a series has all shards that a request fetches, and its rows have one scale."""
    is_open = any(each.state == "open" and is_wanted(request, each.shard, each.replaces) for each in shards)
    return not is_open and _is_of_one_day(shards)


def _is_of_one_day(shards: Sequence[KnownShard]) -> bool:
    filled = [each for each in shards if each.rows and each.state in ("fetched", "stored")]
    return len({day_of(each.asked) for each in filled}) <= 1
