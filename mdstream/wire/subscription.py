"""Subscriptions: wanted ones cut into requests, and the server's answers.

If a request is too long, the server closes the connection, or silently drops symbols. So a request stays
below `MAX_REQUEST_BYTES`, and the next one waits for its answer. A refused request is cut in halves until
the parts at fault are isolated; these are refused, the rest is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mdstream.venues.alpaca.limits import MESSAGE_BYTES

MAX_REQUEST_BYTES = MESSAGE_BYTES - 512

OMITTED = "not in the server's acknowledgement"
"""Reason of a refusal if the server did not acknowledge a symbol."""
UNANSWERED = "no answer from the server"
"""Reason of a refusal if the server did not answer at all, although it sends data of other channels."""

AGAIN_SOON_S = (1.0, 2.0, 3.0, 5.0, 10.0)
"""Pauses before refused subscriptions are requested again on the same connection, if some of them were
served before. The last one repeats.
"""
AGAIN_S = (*AGAIN_SOON_S, 20.0, 40.0, 60.0)
"""The same for subscriptions that were never served: the plan may not include them."""

Pair = tuple[str, str]
"""(channel, symbol)."""

Wanted = Mapping[str, frozenset[str]]
"""Channel → symbols."""


class Refusal(NamedTuple):
    """A symbol of a channel that the server does not serve, and why."""

    channel: str
    symbol: str
    reason: str


@dataclass(frozen=True, slots=True)
class Request:
    """One message to the server: subscribe or unsubscribe these symbols of these channels."""

    action: str
    symbols: tuple[tuple[str, tuple[str, ...]], ...]

    def message(self) -> dict[str, str | list[str]]:
        return {"action": self.action, **{channel: list(s) for channel, s in self.symbols}}

    def channels(self) -> list[Request]:
        """Return the request cut by channel."""
        return [Request(self.action, (pair,)) for pair in self.symbols]

    def symbol_halves(self) -> list[Request]:
        """Return two requests with half of the symbols each; an empty list if there is only one symbol."""
        symbols = list(dict.fromkeys(symbol for _, listed in self.symbols for symbol in listed))
        if len(symbols) < 2:
            return []
        first = set(symbols[: len(symbols) // 2])
        halves = [
            [(c, tuple(s for s in listed if (s in first) is part)) for c, listed in self.symbols]
            for part in (True, False)
        ]
        return [Request(self.action, tuple((c, s) for c, s in half if s)) for half in halves]

    def halves(self) -> list[Request]:
        """Return the request cut by channel, or in two if it has one; an empty list if that fails."""
        if len(self.symbols) > 1:
            return self.channels()
        channel, symbols = self.symbols[0]
        if len(symbols) < 2:
            return []
        middle = len(symbols) // 2
        return [Request(self.action, ((channel, part),)) for part in (symbols[:middle], symbols[middle:])]

    def refuse(self, reason: str) -> list[Refusal]:
        return [Refusal(c, symbol, reason) for c, symbols in self.symbols for symbol in symbols]


def requests(
    action: str, wanted: Wanted, comes_first: Callable[[str], bool] = lambda symbol: False
) -> Iterator[Request]:
    """Yield requests for `wanted` below the size limit, with symbols in order."""
    symbols = sorted({symbol for listed in wanted.values() for symbol in listed})
    symbols.sort(key=comes_first, reverse=True)
    piece: list[str] = []
    size = 0
    for symbol in symbols:
        cost = sum(len(symbol.encode()) + 6 for listed in wanted.values() if symbol in listed)
        if piece and size + cost > MAX_REQUEST_BYTES:
            yield _request(action, wanted, piece)
            piece, size = [], 0
        piece.append(symbol)
        size += cost
    if piece:
        yield _request(action, wanted, piece)


def _request(action: str, wanted: Wanted, piece: list[str]) -> Request:
    pairs = ((channel, tuple(s for s in piece if s in listed)) for channel, listed in wanted.items())
    return Request(action, tuple((channel, symbols) for channel, symbols in pairs if symbols))


@dataclass(slots=True)
class Subscriptions:
    """The wanted subscriptions, the active ones, and those that the server refuses."""

    wanted: dict[str, set[str]] = field(default_factory=dict)
    active: dict[str, set[str]] = field(default_factory=dict)
    refused: dict[Pair, str] = field(default_factory=dict)
    """Subscription → reason."""
    granted: set[Pair] = field(default_factory=set)
    """Subscriptions that were active at some time."""
    again: set[Pair] = field(default_factory=set)
    """Refused subscriptions that are requested again later."""
    asking: set[Pair] = field(default_factory=set)
    """Refused subscriptions that are requested again now."""
    comes_first: Callable[[str], bool] = lambda symbol: False
    """Says which symbols are requested before all others."""

    @property
    def count(self) -> int:
        """How many of the wanted channels' subscriptions are active."""
        return sum(len(symbols) for channel, symbols in self.active.items() if channel in self.wanted)

    def pause_before_again(self, attempts: int) -> float:
        """Return the seconds until refused subscriptions are requested again, after vain `attempts`."""
        pauses = AGAIN_S if self.again.isdisjoint(self.granted) else AGAIN_SOON_S
        return pauses[min(attempts, len(pauses) - 1)]

    def want(self, channel: str, symbols: set[str]) -> None:
        """Want `symbols` of a channel and no others, whose refusals are forgotten."""
        self.forget_refusals(channel, self.wanted.get(channel, set()) - symbols)
        self.wanted[channel] = symbols

    def begin(self) -> None:
        """Start a new connection: nothing is active, and refusals for now are forgotten."""
        self.active = {}
        for pair in self.again:
            self.refused.pop(pair, None)
        self.again.clear()
        self.asking.clear()

    def refuse(self, refusal: Refusal, is_for_now: bool) -> bool:
        """Note a refusal; return whether it is new. One for now is requested again later."""
        pair = (refusal.channel, refusal.symbol)
        is_new = self.refused.get(pair) != refusal.reason
        self.refused[pair] = refusal.reason
        self.asking.discard(pair)
        (self.again.add if is_for_now else self.again.discard)(pair)
        return is_new

    def ask_again(self) -> None:
        """Make the subscriptions that are refused for now missing ones, until they are refused again."""
        self.asking |= self.again

    def forget_refusals(self, channel: str, symbols: Iterable[str]) -> None:
        """Forget that subscriptions of a channel are refused: they have changed."""
        for symbol in symbols:
            pair = (channel, symbol)
            self.refused.pop(pair, None)
            self.again.discard(pair)
            self.asking.discard(pair)

    def can_read(self, message: Mapping[str, Any]) -> bool:
        """Return whether an acknowledgement has texts in a list, or nothing, for each wanted channel."""
        found = (message.get(channel) or [] for channel in self.wanted)
        return all(isinstance(s, list) and all(isinstance(each, str) for each in s) for s in found)

    def acknowledge(self, message: Mapping[str, Any]) -> None:
        """Update the active subscriptions from an acknowledgement, which has the server's whole set."""
        self.active = {
            channel: {symbol for symbol in symbols if isinstance(symbol, str)}
            for channel, symbols in message.items()
            if isinstance(symbols, list)
        }
        self.granted.update((c, symbol) for c, symbols in self.active.items() for symbol in symbols)
        for channel, symbol in list(self.refused):
            if symbol in self.active.get(channel, ()):
                self.forget_refusals(channel, [symbol])

    def with_request(self, request: Request) -> dict[str, list[str]]:
        """Return the acknowledgement that would grant `request` besides what is active."""
        message = {channel: sorted(symbols) for channel, symbols in self.active.items()}
        for channel, symbols in request.symbols:
            message[channel] = [*message.get(channel, ()), *symbols]
        return message

    def has_refused(self, request: Request) -> bool:
        """Return whether all of `request` is refused at present: it is a repeat."""
        return all((channel, s) in self.refused for channel, symbols in request.symbols for s in symbols)

    def find_unanswered(self, request: Request) -> list[Refusal]:
        """Return the refusals of a request without an answer. What was refused before keeps its reason."""
        return [
            refusal._replace(reason=self.refused.get((refusal.channel, refusal.symbol), UNANSWERED))
            for refusal in request.refuse(UNANSWERED)
            if refusal.symbol in self.wanted.get(refusal.channel, ())
        ]

    def drop(self, request: Request) -> None:
        """Make the subscriptions of an unsubscribe inactive."""
        for channel, symbols in request.symbols:
            self.active.get(channel, set()).difference_update(symbols)

    def shows(self, request: Request) -> bool:
        """Return whether the active subscriptions have what `request` adds, or lack what it removes."""
        asked = request.action == "subscribe"
        return all(
            (symbol in self.active.get(channel, ())) is asked
            for channel, symbols in request.symbols
            for symbol in symbols
        )

    def find_missing(self) -> dict[str, frozenset[str]]:
        """Return subscriptions that are wanted, not active, and not refused or requested again now."""
        return self._differences(self.wanted, self.active)

    def find_surplus(self) -> dict[str, frozenset[str]]:
        """Return subscriptions that are active and no longer wanted, of channels that were ever wanted."""
        active = {c: s for c, s in self.active.items() if c in self.wanted}
        return self._differences(active, self.wanted)

    def find_refused(self) -> dict[str, str]:
        """Return the symbols that are refused on all their wanted channels, with the last reason.

        A symbol still counts as served if one channel refuses it and another serves it.
        """
        out = {}
        for (_, symbol), reason in self.refused.items():
            channels = [c for c, symbols in self.wanted.items() if symbol in symbols]
            if channels and all((c, symbol) in self.refused for c in channels):
                out[symbol] = reason
        return out

    def _differences(
        self, left: Mapping[str, set[str]], right: Mapping[str, set[str]]
    ) -> dict[str, frozenset[str]]:
        found = {
            channel: frozenset(
                s
                for s in symbols - right.get(channel, set())
                if (pair := (channel, s)) not in self.refused or pair in self.asking
            )
            for channel, symbols in left.items()
        }
        return {channel: symbols for channel, symbols in found.items() if symbols}
