"""REST records of the made-up market: any item of any symbol's past, computed from its index.

Item `k` of a symbol stands at a fixed time and has fixed values, so that any page can begin anywhere
and every request for it answers the same.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mdstream.simulator.encode import Time
from mdstream.simulator.market import MINUTE, article, base_price

Record = dict[str, Any]

SECOND = 1_000_000_000
DAY = 24 * 60 * MINUTE
_FOREVER = (1 << 63) - 1
_AUTHORS = 10_000
"""Of news: as many symbols can have an article of one time, each with an id of its own."""

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """splitmix64: a well-scattered 64-bit number for each index."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class History:
    """The past of one symbol of one stream."""

    def __init__(self, stream: str, seed: int, symbol: str) -> None:
        self.stream, self.symbol = stream, symbol
        self._seed = zlib.crc32(f"{seed}/{stream}/{symbol}".encode())
        base = base_price(symbol)
        self._base = base if stream != "options" else 0.5 + base % 9
        self._digits = 2 if self._base >= 1 else 4

    def _unit(self, index: int, salt: int) -> float:
        """A number in [0, 1) for item `index`."""
        return _mix((self._seed << 40) ^ (salt << 56) ^ index) / 2**64

    def _price(self, at: int, index: int) -> float:
        wave = math.sin(at / (3600 * SECOND) + self._seed % 7)
        return round(self._base * (1 + 0.02 * wave + 0.001 * self._unit(index, 1)), self._digits)

    def _whole(self, index: int, salt: int, top: int) -> int:
        return 1 + int(self._unit(index, salt) * top)

    def _letter(self, index: int, salt: int) -> str:
        return "ABCDHIJKMNPQTUVXYZ"[int(self._unit(index, salt) * 18)]

    def _amount(self, index: int, salt: int) -> Any:
        if self.stream == "crypto":
            return round(self._unit(index, salt) * 3 + 1e-6, 9)
        return self._whole(index, salt, 900)

    def trade(self, at: int, index: int) -> Record:
        record: Record = {"t": Time(at), "p": self._price(at, index), "s": self._amount(index, 2)}
        if self.stream == "crypto":
            return {**record, "i": 300_000_000 + index, "tks": "BS"[index % 2]}
        record["x"] = self._letter(index, 3)
        if self.stream == "options":
            return {**record, "c": "aIS"[index % 3]}
        return {**record, "c": ["@", "I"] if index % 5 else ["@"], "i": index + 1, "z": "C"}

    def quote(self, at: int, index: int) -> Record:
        middle, step = self._price(at, index), 0.01 if self._base >= 1 else 0.0001
        bid, ask = round(middle - step, self._digits), round(middle + step, self._digits)
        record: Record = {
            "t": Time(at),
            "bp": bid,
            "bs": self._amount(index, 4),
            "ap": ask,
            "as": self._amount(index, 5),
        }
        if self.stream == "crypto":
            return record
        record |= {"bx": self._letter(index, 6), "ax": self._letter(index, 7)}
        if self.stream == "options":
            return {**record, "c": "A"}
        return {**record, "c": ["R"], "z": "C"}

    def bar(self, at: int, index: int) -> Record:
        prices = sorted(self._price(at + i * SECOND, index * 4 + i) for i in range(4))
        return {
            "t": Time(at),
            "o": prices[1],
            "h": prices[3],
            "l": prices[0],
            "c": prices[2],
            "v": self._amount(index, 8),
            "n": self._whole(index, 9, 500),
            "vw": round(sum(prices) / 4, 6),
        }

    def orderbook(self, at: int, index: int) -> Record:
        middle: float = self._price(at, index)

        def side(sign: int) -> list[Record]:
            return [
                {"p": round(middle + sign * 0.01 * i, 4), "s": self._amount(index + i, 10)}
                for i in range(1, 6)
            ]

        return {"t": Time(at), "b": side(-1), "a": side(1)}

    def snapshot(self, now: int) -> Record:
        second, minute, day = now // SECOND, now // MINUTE, now // DAY
        record: Record = {
            "latestTrade": self.trade(now - 150_000_321, second),
            "latestQuote": self.quote(now - 20_000_123, second),
            "minuteBar": self.bar((minute - 1) * MINUTE, minute - 1),
            "dailyBar": self.bar(day * DAY, day),
            "prevDailyBar": self.bar((day - 1) * DAY, day - 1),
        }
        if self.stream == "options":
            u = self._unit(second, 11)
            record["greeks"] = {
                "delta": round(u, 6),
                "gamma": 0.0279,
                "rho": 0.0611,
                "theta": -0.1257,
                "vega": 0.1466,
            }
            record["impliedVolatility"] = round(0.2 + u / 4, 6)
        return record


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of history: the distance of its items, and how one is made."""

    step: int
    make: Callable[[History, int, int], Record]
    jitter: bool = True
    composed: bool = False
    """Made of shorter bars."""

    def at(self, history: History, index: int, end: int = _FOREVER) -> Record:
        """Item `index`: on a grid of `step`, off it by something below a step if `jitter`. A composed bar
        that is not over by `end` has only the part until then (what the service gives is not known; this
        is the harder for a client).
        """
        offset = int(history._unit(index, 12) * self.step * 0.9) if self.jitter else 0
        record = self.make(history, index * self.step + offset, index)
        past = (index + 1) * self.step
        return _part(record, past, end) if self.composed and end < past - 1 else record


def _part(bar: Record, past: int, end: int) -> Record:
    """What a bar has by `end`."""
    share = max(0.0, (end - bar["t"]) / (past - bar["t"]))
    return {**bar, "v": type(bar["v"])(bar["v"] * share), "n": int(bar["n"] * share)}


TRADES = Series(SECOND, History.trade)
QUOTES = Series(SECOND // 2, History.quote)


def bar_series(timeframe: str) -> Series | None:
    """Bars of `timeframe` (`1Min`, `15T`, `1Hour`, `1Day`, `1Week`, `1Month`); None if it is none."""
    units = {
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
    count = timeframe.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = units.get(timeframe[len(count) :].lower())
    if unit is None or not count.isdigit() or not 1 <= int(count) <= 59:
        return None
    step = int(count) * unit
    return Series(step, History.bar, jitter=False, composed=step not in (MINUTE, DAY))


def news_record(seed: int, symbol: str, index: int, step: int) -> Record:
    """Article `index` on `symbol`, as REST has it."""
    r = random.Random(f"{seed}/{symbol}/{index}")
    number = 40_000_000 + index * _AUTHORS + zlib.crc32(symbol.encode()) % _AUTHORS
    record = article("", r, symbol, Time(index * step), number)
    del record["T"]
    sizes = ("thumb", "small", "large")
    record["images"] = [{"size": s, "url": f"https://example.com/{s}.jpg"} for s in sizes]
    return record
