"""Crypto spot pairs: trades, quotes, bars and order books; REST needs no key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from mdstream.simulator.answers import answer_history, answer_latest, answer_states
from mdstream.simulator.encode import Time
from mdstream.simulator.generator import Generator, Maker, Message
from mdstream.simulator.markets.declaration import Market, Route
from mdstream.simulator.past_records import SECOND, Past, Record

_PRICES = {"BTC/USD": 91000.0, "ETH/USD": 3100.0, "SOL/USD": 215.0, "LTC/USD": 88.0, "DOGE/USD": 0.37}

_BOOK_STEP = 2e-5
"""Distance of an order book's levels, as a share of the price; at least a tick."""
_BOOK_REACH = 400
"""Largest distance of a level from the price, in levels."""
_FIRST_LEVELS = 10
"""Levels of each side in the first message of a book."""
_CHANGES = ((1, 0), (0, 1), (1, 1), (2, 1))
"""Bids and asks that one message changes."""
_TAKEN_SHARE = 0.3
"""Share of changes of a book's side that remove a level."""


class CoinMessages(Generator):
    """Messages of coins: sizes are fractions; a book is sent whole, then its changes."""

    first_id = 3_447_222_699_000_000_000

    _books: dict[str, tuple[set[float], set[float]]]
    """The prices of the bids and the asks of each symbol."""

    def __init__(self, seed: int, subscription: Mapping[str, Sequence[str]], ids_from: int = 0) -> None:
        super().__init__(seed, subscription, ids_from)
        self._books = {}

    def makers(self) -> dict[str, tuple[float, Maker]]:
        return {
            "trades": (30.0, self._trade),
            "quotes": (60.0, self._quote),
            "orderbooks": (25.0, self._book),
            **self.bar_makers(),
        }

    def volume(self) -> float:
        return round(self.random.uniform(0, 9), 6)

    def _trade(self, symbol: str, at: Time) -> Message:
        deal = {"p": self.price(symbol), "s": self._amount()}
        key = {"i": self.number(), "tks": self.random.choice("BS")}
        return {"T": "t", "S": symbol, **deal, "t": at, **key}

    def _quote(self, symbol: str, at: Time) -> Message:
        bid, ask = self.spread(symbol)
        sides = {"bp": bid, "bs": self._amount(), "ap": ask, "as": self._amount()}
        return {"T": "q", "S": symbol, **sides, "t": at}

    def _amount(self) -> float:
        return round(self.random.expovariate(2.0) + 1e-6, 9)

    def _book(self, symbol: str, at: Time) -> Message:
        """Make the whole book first, then changes of some levels; size 0 removes a level."""
        price = self.price(symbol)
        is_first = symbol not in self._books
        sides = self._books.setdefault(symbol, (set(), set()))
        bids, asks = (_FIRST_LEVELS, _FIRST_LEVELS) if is_first else self.random.choice(_CHANGES)
        message: Message = {"T": "o", "S": symbol, "t": at}
        message["b"] = self._changes(sides[0], price, -1, bids, is_first)
        message["a"] = self._changes(sides[1], price, 1, asks, is_first)
        return {**message, "r": True} if is_first else message

    def _changes(
        self, known: set[float], price: float, sign: int, count: int, is_first: bool
    ) -> list[Message]:
        """Change a side of a book: remove levels that the price has passed or that are too far from it; add
        or change others.
        """
        step = max(0.01 if price >= 1 else 0.0001, round(price * _BOOK_STEP, 4))
        gone = {p for p in known if not 0 < sign * (p - price) <= step * _BOOK_REACH}
        if known - gone and not is_first and self.random.random() < _TAKEN_SHARE:
            gone.add(self.random.choice(sorted(known - gone)))
        known -= gone
        found = [{"p": p, "s": 0.0} for p in sorted(gone)]
        for _ in range(count):
            level = round(price + sign * step * self.random.randint(1, _BOOK_REACH), 4)
            if level not in gone:
                known.add(level)
                found.append({"p": level, "s": self._amount()})
        return found


class CoinPast(Past):
    """The records of one symbol."""

    def size(self, index: int, salt: int) -> float:
        return round(self.unit(index, salt) * 3 + 1e-6, 9)

    def trade(self, at: int, index: int) -> Record:
        return {**super().trade(at, index), "i": 300_000_000 + index, "tks": "BS"[index % 2]}

    def latest(self, now: int) -> dict[str, Callable[[], Record]]:
        return {**super().latest(now), "orderbooks": lambda: self.orderbook(now, now // SECOND)}

    def orderbook(self, at: int, index: int) -> Record:
        """Return order book `index`: five levels of each side."""
        middle = self.price(at, index)

        def side(sign: int) -> list[Record]:
            return [
                {"p": round(middle + sign * 0.01 * i, 4), "s": self.size(index + i, 10)}
                for i in range(1, 6)
            ]

        return {"t": Time(at), "b": side(-1), "a": side(1)}


class CryptoMessages(CoinMessages):
    """Messages of crypto."""

    stream = "crypto"
    universe = (*_PRICES, "AVAX/USD", "LINK/USD", "UNI/USD")
    prices = _PRICES


class CryptoPast(CoinPast):
    """The records of one pair."""

    stream = "crypto"
    prices = _PRICES


_PREFIX = "/v1beta3/crypto/{loc}"

CRYPTO = Market(
    generator=CryptoMessages,
    past=CryptoPast,
    symbol_form=re.compile(r"[A-Z0-9]{2,8}/[A-Z]{3,4}"),
    routes=(
        *(
            route
            for kind in ("trades", "quotes", "bars")
            for route in (
                Route(f"{_PREFIX}/latest/{kind}", answer_latest(kind)),
                Route(f"{_PREFIX}/{kind}", answer_history(kind)),
            )
        ),
        Route(f"{_PREFIX}/latest/orderbooks", answer_latest("orderbooks")),
        Route(f"{_PREFIX}/snapshots", answer_states("snapshots"), answer_states("snapshots")),
    ),
    state_members={"trades": "latestTrade", "quotes": "latestQuote"},
    is_open=True,
    asset_class="crypto",
    exchange="CRYPTO",
)
