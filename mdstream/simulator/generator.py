"""A made-up stream: messages as the service would send them, the same for the same seed.

Messages are dicts in the order of the wire (`T` first), with `Time` for times. The next message depends
only on the seed and the subscription. Times come from a clock that the caller gives.
"""

from __future__ import annotations

import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from mdstream.simulator.encode import Time

Message = dict[str, Any]
Maker = Callable[[str, Time], Message]
"""Makes a message of a symbol at a time."""

MINUTE = 60_000_000_000
DAY = 24 * 60 * MINUTE
MIDNIGHT = 5 * 60 * MINUTE
"""Start of the days of bars in UTC: New York's midnight in winter; that of crypto in summer, too."""


def start_of_day(at: int) -> int:
    """Return when the day of a daily bar begins, in ns since 1970."""
    return at - (at - MIDNIGHT) % DAY


def base_price(symbol: str, known: Mapping[str, float]) -> float:
    """Return the price around which a symbol moves: the `known` one, or else one made from its name."""
    return known.get(symbol) or 5.0 + zlib.crc32(symbol.encode()) % 40_000 / 100


class Generator(ABC):
    """Makes endless messages of one stream for one subscription (channel → symbols).

    A market's subclass names the channels and makes their messages.
    """

    stream: ClassVar[str]
    universe: ClassVar[tuple[str, ...]]
    """The symbols that `*` means."""
    prices: ClassVar[Mapping[str, float]] = {}
    """Prices of well-known symbols."""
    first_id: ClassVar[int] = 0
    """A number below the ids of all messages."""

    random: random.Random
    """The source of all random values."""
    _choices: list[tuple[Maker, list[str]]]
    """The makers of subscribed channels, with their symbols."""
    _weights: list[float]
    _prices: dict[str, float]
    """The last price of each symbol."""
    _ids: int
    """The last id."""

    def __init__(self, seed: int, subscription: Mapping[str, Sequence[str]], ids_from: int = 0) -> None:
        self.random = random.Random(f"{seed}/{self.stream}")
        self._choices = []
        self._weights = []
        self._prices = {}
        self._ids = self.first_id + ids_from
        makers = self.makers()
        for channel in sorted(subscription):
            symbols = list(subscription[channel])
            if "*" in symbols:
                symbols = list(self.universe)
            if symbols and channel in makers:
                weight, maker = makers[channel]
                self._choices.append((maker, sorted(symbols)))
                # The number of symbols does not change how often a channel's messages are sent.
                self._weights.append(weight)

    @abstractmethod
    def makers(self) -> dict[str, tuple[float, Maker]]:
        """Return channel → how often its messages are sent, relative to others, and their maker."""

    def followers(self, symbol: str, message: Message, clock: Callable[[], int]) -> Iterable[Message]:
        """Return the messages that follow `message` directly: none in most streams."""
        return ()

    def messages(self, clock: Callable[[], int]) -> Iterator[Message]:
        """Yield messages at the times that `clock` gives (ns); end at once if nothing is subscribed."""
        pick, choose = self.random.choices, self.random.choice
        while self._choices:
            for maker, symbols in pick(self._choices, self._weights, k=64):
                symbol = choose(symbols)
                message = maker(symbol, Time(clock()))
                yield message
                yield from self.followers(symbol, message, clock)

    # -- values of messages

    def price(self, symbol: str) -> float:
        """Return the symbol's next price: cents, or hundredths of them below 1."""
        price = self._prices.get(symbol) or base_price(symbol, self.prices)
        price *= 1 + self.random.gauss(0, 0.0002)
        self._prices[symbol] = price
        return round(price, 2 if price >= 1 else 4)

    def spread(self, symbol: str) -> tuple[float, float]:
        """Return the symbol's next bid and ask."""
        price = self.price(symbol)
        step = 0.01 if price >= 1 else 0.0001
        width = step * self.random.randint(1, 4)
        return round(price - width, 4), round(price + width, 4)

    def number(self) -> int:
        """Return the next id of a trade or an article."""
        self._ids += self.random.randint(1, 3)
        return self._ids

    def bar_makers(self) -> dict[str, tuple[float, Maker]]:
        """Return the makers of bars, for a market with bars."""
        return {
            "bars": (2.0, lambda symbol, at: self._bar("b", MINUTE, symbol, at)),
            "updatedBars": (0.5, lambda symbol, at: self._bar("u", MINUTE, symbol, at)),
            "dailyBars": (1.0, lambda symbol, at: self._bar("d", DAY, symbol, at)),
        }

    def volume(self) -> float:
        """Return the volume of a bar."""
        return self.random.randint(1000, 90_000)

    def _bar(self, wire_type: str, length: int, symbol: str, at: Time) -> Message:
        prices = sorted(self.price(symbol) for _ in range(4))
        low, opened, closed, high = prices
        return {
            "T": wire_type,
            "S": symbol,
            "o": opened,
            "h": high,
            "l": low,
            "c": closed,
            "v": self.volume(),
            "n": self.random.randint(1, 900),
            "vw": round(sum(prices) / 4, 6),
            "t": Time(start_of_day(at) if length == DAY else at - at % length),
        }
