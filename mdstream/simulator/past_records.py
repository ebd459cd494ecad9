"""REST records of a made-up market: any item of any symbol's past, computed from its index.

Item `k` of a symbol has a fixed time and fixed values. So a page can begin anywhere, and every request for
it gets the same bytes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mdstream.simulator.encode import Time
from mdstream.simulator.generator import DAY, MIDNIGHT, MINUTE, base_price, start_of_day

Record = dict[str, Any]

SECOND = 1_000_000_000
_FOREVER = (1 << 63) - 1
_MASK = (1 << 64) - 1
_EXCHANGES = "ABCDHIJKMNPQTUVXYZ"


def _mix(value: int) -> int:
    """Return a well-scattered 64-bit number for each index (splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Past:
    """The past of one symbol of one stream. A market's subclass adds fields of its records."""

    stream: ClassVar[str]
    prices: ClassVar[Mapping[str, float]] = {}
    """Prices of well-known symbols."""

    def __init__(self, seed: int, symbol: str) -> None:
        self.symbol = symbol
        self._seed = zlib.crc32(f"{seed}/{self.stream}/{symbol}".encode())
        self._base = self.base_price()
        self._digits = 2 if self._base >= 1 else 4

    def base_price(self) -> float:
        """Return the price around which the symbol moves."""
        return base_price(self.symbol, self.prices)

    # -- numbers

    def unit(self, index: int, salt: int) -> float:
        """Return a number in [0, 1) for item `index`."""
        return _mix((self._seed << 40) ^ (salt << 56) ^ index) / 2**64

    def price(self, at: int, index: int) -> float:
        """Return the price of item `index`."""
        wave = math.sin(at / (3600 * SECOND) + self._seed % 7)
        return round(self._base * (1 + 0.02 * wave + 0.001 * self.unit(index, 1)), self._digits)

    def whole(self, index: int, salt: int, top: int) -> int:
        """Return a whole number from 1 to `top`."""
        return 1 + int(self.unit(index, salt) * top)

    def exchange(self, index: int, salt: int) -> str:
        """Return the code of an exchange."""
        return _EXCHANGES[int(self.unit(index, salt) * len(_EXCHANGES))]

    def size(self, index: int, salt: int) -> float:
        """Return the size of a trade, of a quote's side, or of a level, or the volume of a bar."""
        return self.whole(index, salt, 900)

    # -- records

    def trade(self, at: int, index: int) -> Record:
        """Return trade `index`, with the fields that all markets have."""
        return {"t": Time(at), "p": self.price(at, index), "s": self.size(index, 2)}

    def quote(self, at: int, index: int) -> Record:
        """Return quote `index`, with the fields that all markets have."""
        middle, step = self.price(at, index), 0.01 if self._base >= 1 else 0.0001
        bid, ask = round(middle - step, self._digits), round(middle + step, self._digits)
        return {"t": Time(at), "bp": bid, "bs": self.size(index, 4), "ap": ask, "as": self.size(index, 5)}

    def bar(self, at: int, index: int) -> Record:
        """Return bar `index`."""
        prices = sorted(self.price(at + i * SECOND, index * 4 + i) for i in range(4))
        return {
            "t": Time(at),
            "o": prices[1],
            "h": prices[3],
            "l": prices[0],
            "c": prices[2],
            "v": self.size(index, 8),
            "n": self.whole(index, 9, 500),
            "vw": round(sum(prices) / 4, 6),
        }

    def latest(self, now: int) -> dict[str, Callable[[], Record]]:
        """Return kind → function that makes its latest record."""
        second, day = now // SECOND, start_of_day(now)
        return {
            "trades": lambda: self.trade(now, second),
            "quotes": lambda: self.quote(now, second),
            "bars": lambda: self.bar(day, day // DAY),
        }

    def snapshot(self, now: int) -> Record:
        """Return the state of the symbol."""
        second, minute, day = now // SECOND, now // MINUTE, start_of_day(now)
        return {
            "latestTrade": self.trade(now - 150_000_321, second),
            "latestQuote": self.quote(now - 20_000_123, second),
            "minuteBar": self.bar((minute - 1) * MINUTE, minute - 1),
            "dailyBar": self.bar(day, day // DAY),
            "prevDailyBar": self.bar(day - DAY, day // DAY - 1),
        }


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of history: the time between its items, and their maker."""

    step: int
    make: Callable[[Past, int, int], Record]
    jitter: bool = True
    composed: bool = False
    """Made of shorter bars."""
    origin: int = 0
    """When item 0 begins."""

    def indexes(self, start: int, end: int) -> range:
        """Return the indexes of items that may be in a time range, and one before."""
        return range((start - self.origin) // self.step - 1, (end - self.origin) // self.step + 1)

    def at(self, past: Past, index: int, end: int = _FOREVER) -> Record:
        """Return item `index`: on a grid of `step`, or less than a step after it with `jitter`.

        A composed bar that is not over by `end` has only the part until then. It is unknown what the
        service returns; this is the harder case for a client.
        """
        offset = int(past.unit(index, 12) * self.step * 0.9) if self.jitter else 0
        begin = self.origin + index * self.step
        record = self.make(past, begin + offset, index)
        over = begin + self.step
        return _part(record, over, end) if self.composed and end < over - 1 else record


def _part(bar: Record, over: int, end: int) -> Record:
    """Return the part until `end` of a bar that is complete at `over`."""
    share = max(0.0, (end - bar["t"]) / (over - bar["t"]))
    return {**bar, "v": type(bar["v"])(bar["v"] * share), "n": int(bar["n"] * share)}


TRADES = Series(SECOND, lambda past, at, index: past.trade(at, index))
QUOTES = Series(SECOND // 2, lambda past, at, index: past.quote(at, index))

_UNITS = {
    "min": MINUTE,
    "t": MINUTE,
    "hour": 60 * MINUTE,
    "h": 60 * MINUTE,
    "day": DAY,
    "d": DAY,
    "week": 7 * DAY,
    "w": 7 * DAY,
    "month": 30 * DAY,
    "m": 30 * DAY,
}


def bar_series(timeframe: str) -> Series | None:
    """Return bars of `timeframe` (`1Min`, `15T`, `1Hour`, `1Day`, `1Week`, `1Month`); None if invalid."""
    count = timeframe.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = _UNITS.get(timeframe[len(count) :].lower())
    if unit is None or not count.isdigit() or not 1 <= int(count) <= 59:
        return None
    step = int(count) * unit
    origin = MIDNIGHT if step % DAY == 0 else 0
    return Series(step, Past.bar, jitter=False, composed=step not in (MINUTE, DAY), origin=origin)
