"""Stocks: trades with corrections and cancels, quotes, halts, and REST calls for single symbols."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from mdstream.simulator.answers import answer_history, answer_latest, answer_states
from mdstream.simulator.encode import Time
from mdstream.simulator.generator import Generator, Maker, Message
from mdstream.simulator.markets.declaration import Market, Route, Ticks
from mdstream.simulator.past_records import Past, Record

PRICES = {"AAPL": 228.0, "MSFT": 415.0, "NVDA": 140.0, "SPY": 590.0, "QQQ": 505.0, "IBM": 225.0}
"""Prices of well-known stocks."""

_UNIVERSE = (
    "AAPL MSFT NVDA AMZN GOOGL META TSLA AMD SPY QQQ IBM INTC NFLX JPM BAC "
    "WMT DIS KO PFE XOM CVX CSCO ORCL CRM V MA UNH HD PG T"
)
_AMENDED_SHARE = 0.002
"""Share of trades that are followed by a correction or cancel of an earlier one of their symbol."""
_REMEMBERED_SHARE = 0.002
"""Share of trades that are kept, to be amended seconds or minutes later."""
_ONE_SIDED_SHARE = 0.01
"""Share of quotes without one of their sides."""

_EXCHANGES = "ABCDHIJKMNPQTUVXYZ"
_CONDITIONS = (["@"], ["@"], ["@"], [" "], ["@", "I"], ["@", "F"], ["@", "F", "T", "I"], ["@", "T"])
_STATUSES = (
    ("H", "Trading Halt", "T12", "Trading Halted; For information requested by NASDAQ"),
    ("T", "Trading Resumption", "", ""),
    ("P", "Volatility Trading Pause", "LUDP", "Volatility Trading Pause"),
)


class StockMessages(Generator):
    """Messages of stocks."""

    stream = "stocks"
    universe = tuple(_UNIVERSE.split())
    prices = PRICES
    first_id = 52_983_525_000_000

    _remembered: dict[str, Message]
    """Symbol → a trade that will be amended."""

    def __init__(self, seed: int, subscription: Mapping[str, Sequence[str]], ids_from: int = 0) -> None:
        super().__init__(seed, subscription, ids_from)
        self._remembered = {}

    def makers(self) -> dict[str, tuple[float, Maker]]:
        return {
            "trades": (30.0, self._trade),
            "quotes": (60.0, self._quote),
            "statuses": (0.2, self._status),
            "lulds": (0.3, self._luld),
            "imbalances": (0.2, self._imbalance),
            **self.bar_makers(),
        }

    def followers(self, symbol: str, message: Message, clock: Callable[[], int]) -> Iterator[Message]:
        if message["T"] != "t":
            return
        before = self._remembered.get(symbol)
        if before is None or self.random.random() < _REMEMBERED_SHARE:
            self._remembered[symbol] = message
        if before is None or self.random.random() >= _AMENDED_SHARE:
            return
        self._remembered.pop(symbol)  # each is amended once
        at = Time(clock())
        if self.random.random() < 0.5:
            yield _cancel(before, at)
        else:
            yield self._correction(before, at)

    def _trade(self, symbol: str, at: Time) -> Message:
        r = self.random
        key = {"i": self.number(), "x": r.choice(_EXCHANGES)}
        deal = {"p": self.price(symbol), "s": self._size(), "c": r.choice(_CONDITIONS)}
        return {"T": "t", "S": symbol, **key, **deal, "z": _tape(symbol), "t": at}

    def _quote(self, symbol: str, at: Time) -> Message:
        r = self.random
        bid, ask = self.spread(symbol)
        sides = {"bx": r.choice(_EXCHANGES), "bp": bid, "bs": self._size()}
        sides |= {"ax": r.choice(_EXCHANGES), "ap": ask, "as": self._size()}
        if r.random() < _ONE_SIDED_SHARE:
            side = r.choice("ab")
            sides |= {side + "x": " ", side + "p": 0.0, side + "s": 0}
        return {"T": "q", "S": symbol, **sides, "c": ["R"], "z": _tape(symbol), "t": at}

    def _size(self) -> int:
        r = self.random.random()
        if r < 0.4:
            return 100
        return self.random.randint(1, 99) if r < 0.7 else 100 * self.random.randint(2, 20)

    def _status(self, symbol: str, at: Time) -> Message:
        code, text, reason, why = self.random.choice(_STATUSES)
        status = {"sc": code, "sm": text, "rc": reason, "rm": why}
        return {"T": "s", "S": symbol, **status, "t": at, "z": _tape(symbol)}

    def _luld(self, symbol: str, at: Time) -> Message:
        price = self.price(symbol)
        up, down = round(price * 1.05, 2), round(price * 0.95, 2)
        return {"T": "l", "S": symbol, "u": up, "d": down, "i": "B", "t": at, "z": _tape(symbol)}

    def _imbalance(self, symbol: str, at: Time) -> Message:
        return {"T": "i", "S": symbol, "p": self.price(symbol), "z": _tape(symbol), "t": at}

    def _correction(self, trade: Message, at: Time) -> Message:
        before = {"oi": trade["i"], "op": trade["p"], "os": trade["s"], "oc": trade["c"]}
        after = {"ci": self.number(), "cp": self.price(trade["S"]), "cs": trade["s"], "cc": trade["c"]}
        return {"T": "c", "S": trade["S"], "x": trade["x"], **before, **after, "z": trade["z"], "t": at}


def _cancel(trade: Message, at: Time) -> Message:
    same = {key: trade[key] for key in ("S", "i", "x", "p", "s")}
    return {"T": "x", **same, "a": "C", "z": trade["z"], "t": at}


def _tape(symbol: str) -> str:
    return "CAB"[zlib.crc32(symbol.encode()) % 3]


class StockPast(Past):
    """The records of one stock."""

    stream = "stocks"
    prices = PRICES

    def trade(self, at: int, index: int) -> Record:
        more = {"c": ["@", "I"] if index % 5 else ["@"], "i": index + 1, "z": "C"}
        return {**super().trade(at, index), "x": self.exchange(index, 3), **more}

    def quote(self, at: int, index: int) -> Record:
        exchanges = {"bx": self.exchange(index, 6), "ax": self.exchange(index, 7)}
        return {**super().quote(at, index), **exchanges, "c": ["R"], "z": "C"}


# -- a recorded day


def _recorded_trade(row: Mapping[str, str], number: int) -> Message:
    deal = {"x": row["exchange"], "p": float(row["price"]), "s": float(row["size"])}
    return {
        "T": "t",
        "S": row["symbol"],
        "i": number,
        **deal,
        "c": [" "],
        "z": "A",
        "t": Time(int(row["ns"])),
    }


def _recorded_quote(row: Mapping[str, str], number: int) -> Message:
    sides: Message = {}
    for letter, side in (("b", "bid"), ("a", "ask")):
        sides[letter + "x"] = row[f"{side}_exchange"]
        sides |= {letter + "p": float(row[f"{side}_price"]), letter + "s": float(row[f"{side}_size"])}
    return {"T": "q", "S": row["symbol"], **sides, "c": ["R"], "z": "A", "t": Time(int(row["ns"]))}


_SIDES = frozenset(f"{side}_{what}" for side in ("bid", "ask") for what in ("price", "size", "exchange"))
_TICKS = Ticks(
    frozenset({"ns", "price", "size", "exchange"}) | _SIDES, {"t": _recorded_trade, "q": _recorded_quote}
)

_PREFIX = "/v2/stocks"

STOCKS = Market(
    generator=StockMessages,
    past=StockPast,
    symbol_form=re.compile(r"[A-Z][A-Z0-9.]{0,9}"),
    routes=(
        *(
            route
            for kind in ("trades", "quotes", "bars")
            for route in (
                Route(f"{_PREFIX}/{kind}/latest", answer_latest(kind)),
                Route(f"{_PREFIX}/{{symbol}}/{kind}/latest", answer_latest(kind)),
                Route(f"{_PREFIX}/{kind}", answer_history(kind)),
                Route(f"{_PREFIX}/{{symbol}}/{kind}", answer_history(kind)),
            )
        ),
        Route(f"{_PREFIX}/snapshots", answer_states(), answer_states()),
        Route(f"{_PREFIX}/{{symbol}}/snapshot", answer_states(), answer_states()),
    ),
    state_members={"trades": "latestTrade", "quotes": "latestQuote"},
    asset_class="us_equity",
    exchange="NASDAQ",
    ticks=_TICKS,
)
