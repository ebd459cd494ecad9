"""What the user has selected: the symbols that are fetched, and the subscriptions of each channel.

The settings begin it, and commands change it. An underlying cannot be subscribed itself: it stands for the
contracts that are followed for it. So what is wanted on a channel follows from three facts: the symbols
that the user named, the contracts of the underlyings among them, and the contracts that the user removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from mdstream.config import StreamConfig
from mdstream.feed.contracts import FollowedContracts
from mdstream.streams.spec import StreamSpec
from mdstream.venues.alpaca.sessions import NEW_YORK
from mdstream.wire.subscription import Subscriptions


class Selection:
    """The selected symbols of one stream. `subscriptions` has what follows from them."""

    symbols: dict[str, None]
    """The symbols that are fetched and reported, those with priority first."""
    _named: dict[str, set[str]]
    """Channel → symbols that the user named."""
    _removed: dict[str, set[str]]
    """Channel → contracts that the user removed: they are not followed for their underlying either."""

    def __init__(self, spec: StreamSpec, stream: StreamConfig, followed: FollowedContracts) -> None:
        self._chain = spec.chain
        self._priority = stream.priority
        self._channels = stream.channels
        self._followed = followed
        self.subscriptions = Subscriptions(comes_first=self._comes_first)
        self.symbols = dict.fromkeys(sorted(stream.symbols, key=self._comes_first, reverse=True))
        self._named = {channel: set(self.symbols) for channel in self._channels}
        self._removed = {}
        self._apply()

    @property
    def count(self) -> int:
        """How many subscriptions the user wants; the contracts of an underlying count as one.

        An underlying counts as none if the user has removed all that is followed for it.
        """
        return sum(self._is_wanted(channel, s) for channel, named in self._named.items() for s in named)

    def _is_wanted(self, channel: str, symbol: str) -> bool:
        """Return whether the user wants any subscription that a named symbol stands for."""
        followed = set() if self._is_streamed(symbol) else set(self._followed.find(symbol))
        return not followed or bool(followed - self._removed.get(channel, set()))

    def subscribe(self, channels: Sequence[str], symbols: Sequence[str]) -> list[str]:
        """Add symbols; without `channels`, on all channels and to fetches too. Return those to fetch now.

        An underlying is fetched in any case: its chain has the contracts.
        """
        for channel in channels or self._channels:
            self._named.setdefault(channel, set()).update(symbols)
            self._removed.get(channel, set()).difference_update(symbols)
            for symbol in symbols:
                self.subscriptions.forget_refusals(channel, [symbol, *self._followed.find(symbol)])
        fetched = [s for s in symbols if not (channels and self._is_streamed(s))]
        new = [s for s in fetched if s not in self.symbols and s != "*"]
        self.symbols |= dict.fromkeys(fetched)
        self._apply()
        return new

    def unsubscribe(self, channels: Sequence[str], symbols: Sequence[str]) -> None:
        """Remove symbols; without `channels`, from all channels and from fetches too."""
        contracts = {s for s in symbols if self._chain is not None and self._chain.is_contract(s)}
        for channel in channels or tuple(self._named):
            self._named.setdefault(channel, set()).difference_update(symbols)
            self._removed.setdefault(channel, set()).update(contracts)
        if not channels:
            for symbol in symbols:
                self.symbols.pop(symbol, None)
        self._apply()

    def follow(self, underlying: str, listed: Iterable[str]) -> bool:
        """Follow the contracts that a chain lists now; return whether the subscriptions change."""
        is_changed = self._followed.update(underlying, listed, datetime.now(NEW_YORK).date())
        if is_changed:
            self._apply()
        return is_changed

    def restore(self) -> int:
        """Follow the contracts that a killed predecessor followed; return their number."""
        count = self._followed.restore()
        self._apply()
        return count

    def find_underlyings(self) -> list[str]:
        """Return the selected underlyings."""
        return [symbol for symbol in self.symbols if not self._is_streamed(symbol)]

    def find_contracts(self, underlying: str) -> Sequence[str]:
        """Return the contracts that are followed for an underlying."""
        return self._followed.find(underlying)

    def _apply(self) -> None:
        """Want what follows from the selection, and nothing else."""
        for channel, named in self._named.items():
            direct = {s for s in named if self._is_streamed(s)}
            followed = {c for s in named - direct for c in self._followed.find(s)}
            self.subscriptions.want(channel, direct | (followed - self._removed.get(channel, set())))

    def _is_streamed(self, symbol: str) -> bool:
        """Return whether `symbol` can be subscribed. An underlying cannot, only its contracts."""
        return self._chain is None or symbol == "*" or self._chain.is_contract(symbol)

    def _comes_first(self, symbol: str) -> bool:
        """Return whether `symbol`, or the underlying of a contract, has priority."""
        first, chain = self._priority, self._chain
        if not first or symbol in first:
            return bool(first)
        return chain is not None and chain.is_contract(symbol) and chain.underlying_of(symbol) in first
