"""What to subscribe, cut into requests the server accepts, and what it made of them.

The server closes a connection, or silently drops symbols, when a request is too long; so a request
stays below `MAX_REQUEST_BYTES`, and the next is sent when the one before is answered. A request that
is refused is cut in halves until the parts at fault stand alone; these are refused, the rest goes through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mdstream.venues.alpaca.limits import MESSAGE_BYTES

MAX_REQUEST_BYTES = MESSAGE_BYTES - 512

OMITTED = "not in the server's acknowledgement"
"""Why a symbol is refused that the server never acknowledged; a new connection requests it again."""

Wanted = Mapping[str, frozenset[str]]
"""Channel → symbols."""


class Refusal(NamedTuple):
    """A symbol of a channel that the server will not serve, and why."""

    channel: str
    symbol: str
    reason: str


@dataclass(frozen=True, slots=True)
class Request:
    """One message to the server: add (or take away) these symbols of these channels."""

    action: str
    symbols: tuple[tuple[str, tuple[str, ...]], ...]

    def message(self) -> dict[str, str | list[str]]:
        return {"action": self.action, **{channel: list(s) for channel, s in self.symbols}}

    def channels(self) -> list[Request]:
        """The same request, one for each channel."""
        return [Request(self.action, (pair,)) for pair in self.symbols]

    def symbol_halves(self) -> list[Request]:
        """The same request in two, each with half of the symbols; nothing where it names but one."""
        symbols = sorted({symbol for _, listed in self.symbols for symbol in listed})
        if len(symbols) < 2:
            return []
        first = set(symbols[: len(symbols) // 2])
        halves = [
            [(c, tuple(s for s in listed if (s in first) is part)) for c, listed in self.symbols]
            for part in (True, False)
        ]
        return [Request(self.action, tuple((c, s) for c, s in half if s)) for half in halves]

    def halves(self) -> list[Request]:
        """The same request channel by channel, then in two, or nothing where it cannot be cut."""
        if len(self.symbols) > 1:
            return self.channels()
        channel, symbols = self.symbols[0]
        if len(symbols) < 2:
            return []
        middle = len(symbols) // 2
        return [Request(self.action, ((channel, part),)) for part in (symbols[:middle], symbols[middle:])]

    def refuse(self, reason: str) -> list[Refusal]:
        return [Refusal(c, symbol, reason) for c, symbols in self.symbols for symbol in symbols]


def requests(action: str, wanted: Wanted) -> Iterator[Request]:
    """`wanted` as requests that each stay below the size limit, symbols in order."""
    symbols = sorted({symbol for listed in wanted.values() for symbol in listed})
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
    """What is wanted, what the server has, and what it refuses for good."""

    wanted: dict[str, set[str]] = field(default_factory=dict)
    active: dict[str, set[str]] = field(default_factory=dict)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    """(channel, symbol) → reason."""

    def begin(self) -> None:
        """A new connection: nothing is subscribed, and what a server left out may be asked for again."""
        self.active = {}
        self.refused = {pair: why for pair, why in self.refused.items() if why != OMITTED}

    def acknowledge(self, message: Mapping[str, Any]) -> None:
        """Take an acknowledgement, which holds the server's whole set."""
        self.active = {
            channel: {symbol for symbol in symbols if isinstance(symbol, str)}
            for channel, symbols in message.items()
            if isinstance(symbols, list)
        }
        for channel, symbol in list(self.refused):
            if symbol in self.active.get(channel, ()):
                del self.refused[channel, symbol]

    def shows(self, request: Request) -> bool:
        """Whether the server's set has what `request` adds, or lacks what it takes away."""
        asked = request.action == "subscribe"
        return all(
            (symbol in self.active.get(channel, ())) is asked
            for channel, symbols in request.symbols
            for symbol in symbols
        )

    def missing(self) -> dict[str, frozenset[str]]:
        """What is wanted, not refused and not there yet."""
        return self._differences(self.wanted, self.active)

    def surplus(self) -> dict[str, frozenset[str]]:
        """What the server has and nobody wants any more, of the channels ever wanted."""
        active = {c: s for c, s in self.active.items() if c in self.wanted}
        return self._differences(active, self.wanted)

    def refused_everywhere(self) -> dict[str, str]:
        """Symbols that are refused on every channel they are wanted on, with the last reason.

        A channel that the feed does not have takes no symbol away as long as another serves it.
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
                s for s in symbols - right.get(channel, set()) if (channel, s) not in self.refused
            )
            for channel, symbols in left.items()
        }
        return {channel: symbols for channel, symbols in found.items() if symbols}
