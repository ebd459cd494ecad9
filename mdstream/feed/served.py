"""Which of a stream's symbols are served, and why others are not, by their subscriptions and fetches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from mdstream.feed.fetching import Fetching
from mdstream.feed.selection import Selection
from mdstream.session.fetch import NO_DATA
from mdstream.streams.spec import StreamSpec


class ServedSymbols:
    """Finds the served symbols of one stream. `received` returns the symbols that messages have named."""

    # Written by `find`.
    _absent: set[str]
    """Symbols that REST has no data for, and that no message has named yet."""
    _received_before: int
    """How many symbols had arrived when `_absent` was found."""

    def __init__(
        self,
        spec: StreamSpec,
        selection: Selection,
        fetching: Fetching,
        received: Callable[[], Collection[str]],
    ) -> None:
        self._chain = spec.chain
        self._selection, self._fetching, self._received = selection, fetching, received
        self._absent, self._received_before = set(), 0

    @property
    def may_have_changed(self) -> bool:
        """Whether messages of symbols came that REST has no data for."""
        return bool(self._absent) and len(self._received()) > self._received_before

    def find(self) -> tuple[set[str], dict[str, str]]:
        """Return the symbols that are served, and those that are not, with reasons."""
        symbols, subscriptions = self._selection.symbols, self._selection.subscriptions
        refused, active = subscriptions.find_refused(), set().union(*subscriptions.active.values())
        ok, failed = self._find_followed(active, refused)
        ok, failed = ok | active, failed | refused
        if (fetched := self._fetching.find_results()) is not None:
            ok |= fetched.ok
            failed |= {s: why for s, why in fetched.failed.items() if s in symbols}
        self._absent = {symbol for symbol, why in failed.items() if why == NO_DATA}
        arrived = self._find_arrived()
        self._absent -= arrived
        failed = {symbol: why for symbol, why in failed.items() if symbol not in arrived}
        return (ok | arrived).intersection(symbols) - failed.keys(), failed

    def _find_followed(
        self, active: set[str], refused: Mapping[str, str]
    ) -> tuple[set[str], dict[str, str]]:
        """Return the underlyings with an `active` contract, and those whose contracts are all `refused`."""
        ok: set[str] = set()
        failed: dict[str, str] = {}
        if self._chain is None:
            return ok, failed
        wanted = set().union(*self._selection.subscriptions.wanted.values())
        for underlying in self._selection.find_underlyings():
            contracts = wanted.intersection(self._selection.find_contracts(underlying))
            if not active.isdisjoint(contracts):
                ok.add(underlying)
            elif contracts and contracts <= refused.keys():
                failed[underlying] = refused[min(contracts)]
        return ok, failed

    def _find_arrived(self) -> set[str]:
        """Return the symbols that REST has no data for although messages of them arrive, as in a replay."""
        received, chain = self._received(), self._chain
        self._received_before = len(received)
        arrived = self._absent.intersection(received)
        if chain is not None and self._absent:
            roots = set(map(chain.underlying_of, filter(chain.is_contract, received)))
            arrived |= {s for s in self._absent if any(chain.is_root_of(root, s) for root in roots)}
        return arrived
