"""A made-up market: messages as the service would send them, the same ones for the same seed.

Messages are dicts in the order of the wire (`T` first), with `Time` for times. Which message comes next
depends on the seed and on what is subscribed, never on a clock: only the times do, which the
caller gives.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mdstream.simulator.encode import Time

Message = dict[str, Any]

MINUTE = 60_000_000_000

UNIVERSE: dict[str, tuple[str, ...]] = {
    "stocks": (
        "AAPL",
        "MSFT",
        "NVDA",
        "AMZN",
        "GOOGL",
        "META",
        "TSLA",
        "AMD",
        "SPY",
        "QQQ",
        "IBM",
        "INTC",
        "NFLX",
        "JPM",
        "BAC",
        "WMT",
        "DIS",
        "KO",
        "PFE",
        "XOM",
        "CVX",
        "CSCO",
        "ORCL",
        "CRM",
        "V",
        "MA",
        "UNH",
        "HD",
        "PG",
        "T",
    ),
    "options": (
        "AAPL261204C00225000",
        "AAPL261204P00225000",
        "AAPL261218C00230000",
        "AAPL261218P00230000",
        "SPY261204C00590000",
        "SPY261204P00590000",
        "SPY261218C00595000",
        "SPY261218P00585000",
    ),
    "crypto": ("BTC/USD", "ETH/USD", "SOL/USD", "LTC/USD", "DOGE/USD", "AVAX/USD", "LINK/USD", "UNI/USD"),
    "news": ("AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "AMD", "SPY", "QQQ"),
}
"""What `*` stands for."""

_PRICES = {
    "AAPL": 228.0,
    "MSFT": 415.0,
    "NVDA": 140.0,
    "SPY": 590.0,
    "QQQ": 505.0,
    "IBM": 225.0,
    "BTC/USD": 91000.0,
    "ETH/USD": 3100.0,
    "SOL/USD": 215.0,
    "LTC/USD": 88.0,
    "DOGE/USD": 0.37,
}

_WEIGHTS = {
    "quotes": 60.0,
    "trades": 30.0,
    "orderbooks": 25.0,
    "bars": 2.0,
    "updatedBars": 0.5,
    "dailyBars": 1.0,
    "statuses": 0.2,
    "lulds": 0.3,
    "imbalances": 0.2,
    "news": 1.0,
}

_UPDATE_SHARE = 0.05
"""Share of articles that are a new version of an earlier one, which is among so many of the last:"""
_REMEMBERED = 20

_CORRECTION_SHARE = 0.002
"""Share of trades that come with a correction or a cancel of an earlier one of their symbol,"""
_REMEMBERED_SHARE = 0.002
"""which is the last one that was remembered, as this share of them are: seconds or minutes old."""

_BOOK_STEP = 2e-5
"""Distance of an order book's levels, as a share of the price, or a tick,"""
_BOOK_REACH = 400
"""so many of which it reaches away from the price."""
_TAKEN_SHARE = 0.3
"""Share of changes of a book's side that take a level away."""

_FIRST_IDS = {
    "stocks": 52_983_525_000_000,
    "options": 0,
    "crypto": 3_447_222_699_000_000_000,
    "news": 40_000_000,
}

_EXCHANGES = "ABCDHIJKMNPQTUVXYZ"
_CONDITIONS = (["@"], ["@"], ["@"], [" "], ["@", "I"], ["@", "F"], ["@", "F", "T", "I"], ["@", "T"])
_OPTION_EXCHANGES = "ABCDEHIJMNPQTUWXZ"
_OPTION_CONDITIONS = "aIabfgS"
_STATUSES = (
    ("H", "Trading Halt", "T12", "Trading Halted; For information requested by NASDAQ"),
    ("T", "Trading Resumption", "", ""),
    ("P", "Volatility Trading Pause", "LUDP", "Volatility Trading Pause"),
)


def base_price(symbol: str) -> float:
    """The price around which a symbol moves: well-known ones about right, others by their name."""
    return _PRICES.get(symbol) or 5.0 + zlib.crc32(symbol.encode()) % 40_000 / 100


class Market:
    """Messages of one stream for one subscription (channel → symbols), endlessly."""

    def __init__(
        self, stream: str, seed: int, subscription: Mapping[str, Sequence[str]], ids_from: int = 0
    ) -> None:
        self._stream = stream
        self._random = random.Random(f"{seed}/{stream}")
        self._choices: list[tuple[Callable[[str, Time], Message], list[str]]] = []
        self._weights: list[float] = []
        self._prices: dict[str, float] = {}
        self._books: dict[str, tuple[set[float], set[float]]] = {}
        self._remembered_trade: dict[str, Message] = {}
        self._ids = _FIRST_IDS[stream] + ids_from
        self._written: list[Message] = []
        makers = self._makers()
        for channel in sorted(subscription):
            symbols = list(subscription[channel])
            if "*" in symbols:
                symbols = list(UNIVERSE.get(stream, ()))
            if symbols and channel in makers:
                self._choices.append((makers[channel], sorted(symbols)))
                # More symbols do not make more of the rare channels than of the busy ones.
                self._weights.append(_WEIGHTS[channel])

    def messages(self, clock: Callable[[], int]) -> Iterator[Message]:
        """Messages at the times that `clock` gives (ns); ends at once if nothing is subscribed."""
        pick, choose = self._random.choices, self._random.choice
        while self._choices:
            for maker, symbols in pick(self._choices, self._weights, k=64):
                symbol = choose(symbols)
                message = maker(symbol, Time(clock()))
                yield message
                if message["T"] == "t" and self._stream == "stocks":
                    yield from self._amendments(symbol, message, clock)

    def _makers(self) -> dict[str, Callable[[str, Time], Message]]:
        if self._stream == "stocks":
            return {
                "trades": self._stock_trade,
                "quotes": self._stock_quote,
                "bars": lambda s, t: self._bar("b", s, t),
                "updatedBars": lambda s, t: self._bar("u", s, t),
                "dailyBars": lambda s, t: self._bar("d", s, t),
                "statuses": self._status,
                "lulds": self._luld,
                "imbalances": self._imbalance,
            }
        if self._stream == "options":
            return {"trades": self._option_trade, "quotes": self._option_quote}
        if self._stream == "crypto":
            return {
                "trades": self._crypto_trade,
                "quotes": self._crypto_quote,
                "bars": lambda s, t: self._bar("b", s, t),
                "updatedBars": lambda s, t: self._bar("u", s, t),
                "dailyBars": lambda s, t: self._bar("d", s, t),
                "orderbooks": self._book,
            }
        return {"news": self._article}

    # -- prices

    def _price(self, symbol: str) -> float:
        price = self._prices.get(symbol) or base_price(symbol)
        price *= 1 + self._random.gauss(0, 0.0002)
        self._prices[symbol] = price
        return round(price, 2 if price >= 1 else 4)

    def _spread(self, symbol: str) -> tuple[float, float]:
        price = self._price(symbol)
        step = 0.01 if price >= 1 else 0.0001
        width = step * self._random.randint(1, 4)
        return round(price - width, 4), round(price + width, 4)

    def _size(self) -> int:
        r = self._random.random()
        if r < 0.4:
            return 100
        return self._random.randint(1, 99) if r < 0.7 else 100 * self._random.randint(2, 20)

    def _id(self) -> int:
        self._ids += self._random.randint(1, 3)
        return self._ids

    def _tape(self, symbol: str) -> str:
        return "CAB"[zlib.crc32(symbol.encode()) % 3]

    # -- stocks

    def _stock_trade(self, symbol: str, at: Time) -> Message:
        r = self._random
        return {
            "T": "t",
            "S": symbol,
            "i": self._id(),
            "x": r.choice(_EXCHANGES),
            "p": self._price(symbol),
            "s": self._size(),
            "c": r.choice(_CONDITIONS),
            "z": self._tape(symbol),
            "t": at,
        }

    def _stock_quote(self, symbol: str, at: Time) -> Message:
        r = self._random
        bid, ask = self._spread(symbol)
        message = {
            "T": "q",
            "S": symbol,
            "bx": r.choice(_EXCHANGES),
            "bp": bid,
            "bs": self._size(),
            "ax": r.choice(_EXCHANGES),
            "ap": ask,
            "as": self._size(),
            "c": ["R"],
            "z": self._tape(symbol),
            "t": at,
        }
        if r.random() < 0.01:  # now and then one side is absent
            side = r.choice("ab")
            message |= {side + "x": " ", side + "p": 0.0, side + "s": 0}
        return message

    def _bar(self, wire_type: str, symbol: str, at: Time) -> Message:
        prices = sorted(self._price(symbol) for _ in range(4))
        low, opened, closed, high = prices
        whole = self._stream == "stocks"
        volume = self._random.randint(1000, 90_000) if whole else round(self._random.uniform(0, 9), 6)
        length = 24 * 60 * MINUTE if wire_type == "d" else MINUTE
        return {
            "T": wire_type,
            "S": symbol,
            "o": opened,
            "h": high,
            "l": low,
            "c": closed,
            "v": volume,
            "n": self._random.randint(1, 900),
            "vw": round(sum(prices) / 4, 6),
            "t": Time(at - at % length),
        }

    def _status(self, symbol: str, at: Time) -> Message:
        code, text, reason, why = self._random.choice(_STATUSES)
        return {
            "T": "s",
            "S": symbol,
            "sc": code,
            "sm": text,
            "rc": reason,
            "rm": why,
            "t": at,
            "z": self._tape(symbol),
        }

    def _luld(self, symbol: str, at: Time) -> Message:
        price = self._price(symbol)
        return {
            "T": "l",
            "S": symbol,
            "u": round(price * 1.05, 2),
            "d": round(price * 0.95, 2),
            "i": "B",
            "t": at,
            "z": self._tape(symbol),
        }

    def _imbalance(self, symbol: str, at: Time) -> Message:
        price = self._price(symbol)
        return {"T": "i", "S": symbol, "p": price, "z": self._tape(symbol), "t": at}

    def _amendments(self, symbol: str, trade: Message, clock: Callable[[], int]) -> Iterator[Message]:
        """A correction or a cancel of an earlier trade of the symbol, which a subscriber of trades gets."""
        before = self._remembered_trade.get(symbol)
        if before is None or self._random.random() < _REMEMBERED_SHARE:
            self._remembered_trade[symbol] = trade
        if before is None or self._random.random() >= _CORRECTION_SHARE:
            return
        self._remembered_trade.pop(symbol)  # each is amended once
        at = Time(clock())
        if self._random.random() < 0.5:
            yield {
                "T": "x",
                "S": symbol,
                "i": before["i"],
                "x": before["x"],
                "p": before["p"],
                "s": before["s"],
                "a": "C",
                "z": before["z"],
                "t": at,
            }
        else:
            yield {
                "T": "c",
                "S": symbol,
                "x": before["x"],
                "oi": before["i"],
                "op": before["p"],
                "os": before["s"],
                "oc": before["c"],
                "ci": self._id(),
                "cp": self._price(symbol),
                "cs": before["s"],
                "cc": before["c"],
                "z": before["z"],
                "t": at,
            }

    # -- options

    def _premium(self, symbol: str) -> float:
        price = self._prices.get(symbol) or 0.5 + zlib.crc32(symbol.encode()) % 900 / 100
        price = max(0.01, price * (1 + self._random.gauss(0, 0.002)))
        self._prices[symbol] = price
        return max(0.01, round(price, 2))

    def _option_time(self, at: Time) -> Time:
        # The real source passes its times through a float64 of nanoseconds: multiples of 256.
        return Time(at - at % 256)

    def _option_trade(self, symbol: str, at: Time) -> Message:
        r = self._random
        return {
            "T": "t",
            "S": symbol,
            "t": self._option_time(at),
            "p": self._premium(symbol),
            "s": r.randint(1, 40),
            "x": r.choice(_OPTION_EXCHANGES),
            "c": r.choice(_OPTION_CONDITIONS),
        }

    def _option_quote(self, symbol: str, at: Time) -> Message:
        r = self._random
        bid = self._premium(symbol)
        return {
            "T": "q",
            "S": symbol,
            "t": self._option_time(at),
            "bx": r.choice(_OPTION_EXCHANGES),
            "bp": bid,
            "bs": r.randint(1, 500),
            "ax": r.choice(_OPTION_EXCHANGES),
            "ap": round(bid + 0.01 * r.randint(1, 9), 2),
            "as": r.randint(1, 500),
            "c": "A",
        }

    # -- crypto

    def _crypto_trade(self, symbol: str, at: Time) -> Message:
        return {
            "T": "t",
            "S": symbol,
            "p": self._price(symbol),
            "s": self._amount(),
            "t": at,
            "i": self._id(),
            "tks": self._random.choice("BS"),
        }

    def _crypto_quote(self, symbol: str, at: Time) -> Message:
        bid, ask = self._spread(symbol)
        return {
            "T": "q",
            "S": symbol,
            "bp": bid,
            "bs": self._amount(),
            "ap": ask,
            "as": self._amount(),
            "t": at,
        }

    def _amount(self) -> float:
        return round(self._random.expovariate(2.0) + 1e-6, 9)

    def _book(self, symbol: str, at: Time) -> Message:
        """The whole book first, then single levels; size 0 takes a level away."""
        price = self._price(symbol)
        step = max(0.01 if price >= 1 else 0.0001, round(price * _BOOK_STEP, 4))

        reset = symbol not in self._books
        book = self._books.setdefault(symbol, (set(), set()))

        def changes(sign: int, count: int) -> list[Message]:
            """Levels that the price has passed, or left far behind, go; others come, or change."""
            known = book[sign > 0]
            gone = {p for p in known if not 0 < sign * (p - price) <= step * _BOOK_REACH}
            if known - gone and not reset and self._random.random() < _TAKEN_SHARE:
                gone.add(self._random.choice(sorted(known - gone)))
            known -= gone
            found = [{"p": p, "s": 0.0} for p in sorted(gone)]
            for _ in range(count):
                level = round(price + sign * step * self._random.randint(1, _BOOK_REACH), 4)
                if level not in gone:
                    known.add(level)
                    found.append({"p": level, "s": self._amount()})
            return found

        if reset:
            bids, asks = 10, 10
        else:
            bids, asks = self._random.choice(((1, 0), (0, 1), (1, 1), (2, 1)))
        message = {"T": "o", "S": symbol, "t": at, "b": changes(-1, bids), "a": changes(1, asks)}
        return {**message, "r": True} if reset else message

    # -- news

    def _article(self, symbol: str, at: Time) -> Message:
        """A new one, or now and then an earlier one with a correction, under its own number."""
        if self._written and self._random.random() < _UPDATE_SHARE:
            before = self._random.choice(self._written)
            second = Time(max(at - at % 1_000_000_000, before["updated_at"]))
            return {**before, "headline": f"{before['headline']} (Corrected)", "updated_at": second}
        new = article("n", self._random, symbol, at, self._id())
        self._written = [*self._written[-_REMEMBERED:], new]
        return new


_HEADLINES = (
    "{s} Beats on Earnings & Raises Outlook",
    "Analysts Lift {s} Target to €{n}",
    "{s} – What Traders Say About <b>Q{q}</b>",
    "Überraschung bei {s}: Kurs über {n}",
    "{s} Options Volume Hits {n}k Contracts 📈",
)


def article(wire_type: str, r: random.Random, symbol: str, at: Time, number: int) -> Message:
    """One article; with a symbol, and now and then with more than one."""
    headline = r.choice(_HEADLINES).format(s=symbol, n=r.randint(100, 900), q=r.randint(1, 4))
    others = [s for s in UNIVERSE["news"] if s != symbol and r.random() < 0.1]
    second = Time(at - at % 1_000_000_000)
    body = f'<p>{headline} &mdash; "read more" on {symbol}.</p>\n' * r.randint(0, 12)
    return {
        "T": wire_type,
        "id": number,
        "headline": headline,
        "summary": headline[: r.randint(0, 40)],
        "author": "Sim Newsdesk",
        "created_at": second,
        "updated_at": second,
        "url": f"https://example.com/{symbol.lower()}/{number}",
        "content": body,
        "symbols": [symbol, *others],
        "source": "benzinga",
    }
