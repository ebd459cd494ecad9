"""Bars as a server makes them: from the trades that it sends, by the published rules.

Plain loops that share only the table of rules with the engine's own bars, so that each can check the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdstream.simulator.encode import Time
from mdstream.simulator.generator import MINUTE, Message, start_of_day
from mdstream.streams.column_sets import BAR_KINDS
from mdstream.streams.spec import StreamSpec

_REMEMBERED = 3 * MINUTE

_Trade = tuple[Any, str, float, float, bool, bool]
"""Id, exchange, price, size, whether it counts in prices and in volume: a tuple is fast."""

_Key = tuple[str, int]
"""Symbol, and beginning of the minute in ns since 1970."""


@dataclass(slots=True)
class _Bar:
    prices: tuple[float, ...] = ()
    """Open, high, low and close, once there is one."""
    volume: float = 0
    count: int = 0
    weight: float = 0
    worth: float = 0

    def reach(self, price: float) -> None:
        if not self.prices:
            self.prices = (price, price, price, price)
        else:
            opened, high, low, _ = self.prices
            self.prices = (opened, max(high, price), min(low, price), price)

    def add(self, trade: _Trade) -> None:
        _, _, price, size, in_price, in_volume = trade
        if in_volume:
            self.volume += size
            self.count += 1
        if in_price:
            self.reach(price)
            self.weight += size
            self.worth += price * size

    @classmethod
    def of(cls, trades: Sequence[_Trade | None]) -> _Bar:
        bar = cls()
        for trade in trades:
            if trade is not None:
                bar.add(trade)
        return bar


class BarServer:
    """Adds bars to the messages of one subscription, in place of a market's made-up bars."""

    _bars: dict[_Key, _Bar]
    """Symbol and minute → bar, for the last minutes, if trades cannot be amended."""
    _trades: dict[_Key, list[_Trade | None]]
    """Symbol and minute → trades, if these can be amended; None for a cancelled one."""
    _places: dict[tuple[str, Any, str], tuple[_Key, int]]
    """Symbol, id and exchange of a trade → where it is in `_trades`."""
    _served: set[_Key]
    """The bars that were sent."""
    _amended: set[_Key]
    """The bars that have changed since."""
    _days: dict[str, Message]
    """Symbol → bar of the day."""
    _now: int
    """The time of the newest message, ns since 1970."""
    _counts: dict[tuple[str, ...], tuple[bool, bool]]
    """Cache: conditions and tape → whether trades count in prices and in volume."""

    def __init__(self, spec: StreamSpec, subscription: Mapping[str, Sequence[str]]) -> None:
        assert spec.bar_rules is not None
        rules = self._rules = spec.bar_rules
        self._counts = {}
        self._bars = {}
        self._trades = {}
        self._places = {}
        self._served = set()
        self._amended = set()
        self._days = {}
        self._now = 0
        bars = spec.by_type["b"]
        self._wanted = {
            wire_type: set(subscription.get(name, ()))
            for wire_type, name in zip(bars.types, bars.subscriptions, strict=True)
        }
        self._sources = set(subscription.get(rules.trades, ()))
        roles = {
            rules.trades: self._trade,
            rules.midpoints: self._midpoint,
            rules.corrections: self._correct,
            rules.cancels: self._cancel,
        }
        self._handlers = {kind: roles.get(c.name) for kind, c in spec.by_type.items()}

    @staticmethod
    def serves(spec: StreamSpec) -> bool:
        """Return whether the service sends bars of a stream."""
        return spec.bar_rules is not None and BAR_KINDS.keys() <= spec.by_type.keys()

    def add_bars(self, messages: Iterator[Message]) -> Iterator[Message]:
        """Yield `messages`, with the bars of their trades inserted."""
        for message in messages:
            wire_type = message["T"]
            if wire_type in self._wanted and self._is_source(message["S"]):
                continue
            at = int(message["t"])
            if at // (MINUTE // 2) > self._now // (MINUTE // 2):
                yield from self._over(at)
            self._now = max(self._now, at)
            if handler := self._handlers.get(wire_type):
                handler(message, at)
            yield message

    def _is_source(self, symbol: str) -> bool:
        return symbol in self._sources or "*" in self._sources

    def _bar_of(self, message: Message, at: int) -> _Bar:
        key = message["S"], at - at % MINUTE
        bar = self._bars.get(key)
        if bar is None:
            bar = self._bars[key] = _Bar()
        return bar

    def _midpoint(self, message: Message, at: int) -> None:
        if self._is_source(message["S"]):
            self._bar_of(message, at).reach((message["bp"] + message["ap"]) / 2)

    def _trade(self, message: Message, at: int) -> None:
        trade = (
            message["i"],
            message.get("x", ""),
            message["p"],
            message["s"],
            *self._effect(message.get("c", ()), message.get("z", "")),
        )
        if self._rules.corrections:
            key = message["S"], at - at % MINUTE
            trades = self._trades.setdefault(key, [])
            self._places[message["S"], trade[0], trade[1]] = key, len(trades)
            trades.append(trade)
        else:
            self._bar_of(message, at).add(trade)

    def _effect(self, conditions: Sequence[str], tape: str) -> tuple[bool, bool]:
        key = (*conditions, tape)
        if key not in self._counts:
            self._counts[key] = self._rules.counts(conditions, tape)
        return self._counts[key]

    def _correct(self, message: Message, at: int) -> None:
        effect = self._effect(message["cc"], message["z"])
        corrected = message["ci"], message["x"], message["cp"], message["cs"], *effect
        self._replace((message["S"], message["oi"], message["x"]), corrected)

    def _cancel(self, message: Message, at: int) -> None:
        self._replace((message["S"], message["i"], message["x"]), None)

    def _replace(self, meant: tuple[str, Any, str], by: _Trade | None) -> None:
        """Replace the trade with this symbol, id and exchange, if it is kept."""
        place = self._places.pop(meant, None)
        if place is None:
            return
        key, index = place
        self._trades[key][index] = by
        self._amended.add(key)
        if by is not None:
            self._places[meant[0], by[0], by[1]] = place

    def _over(self, at: int) -> Iterator[Message]:
        """Yield the bars due at the end of half a minute: those of past minutes, or amended ones."""
        begin = at - at % MINUTE
        if begin > self._now - self._now % MINUTE:
            for key in sorted(key for key in (*self._bars, *self._trades) if key[1] < begin):
                if key not in self._served and (bar := self._message("b", *key)) is not None:
                    self._served.add(key)
                    yield from self._filter_wanted(bar)
                    yield from self._filter_wanted(self._day(bar))
            kept = begin - _REMEMBERED
            self._bars = {key: bar for key, bar in self._bars.items() if key[1] >= kept}
            self._trades = {key: trades for key, trades in self._trades.items() if key[1] >= kept}
            self._places = {of: place for of, place in self._places.items() if place[0][1] >= kept}
            self._served = {key for key in self._served if key[1] >= kept}
        else:
            amended, self._amended = self._amended, set()
            for key in sorted(amended & self._served):
                if (bar := self._message("u", *key)) is not None:
                    yield from self._filter_wanted(bar)

    def _filter_wanted(self, bar: Message) -> Iterator[Message]:
        if bar["S"] in (wanted := self._wanted[bar["T"]]) or "*" in wanted:
            yield bar

    def _message(self, wire_type: str, symbol: str, begin: int) -> Message | None:
        """Return a minute's bar; None if it has no price or no volume."""
        trades = self._trades.get((symbol, begin))
        bar = self._bars[symbol, begin] if trades is None else _Bar.of(trades)
        if not bar.prices or not (bar.volume or self._rules.midpoints):
            return None
        opened, high, low, close = bar.prices
        vwap = round(bar.worth / bar.weight, 6) if bar.weight else 0.0
        return {
            "T": wire_type,
            "S": symbol,
            "o": opened,
            "h": high,
            "l": low,
            "c": close,
            "v": bar.volume,
            "n": bar.count,
            "vw": vwap,
            "t": Time(begin),
        }

    def _day(self, bar: Message) -> Message:
        """Return the day's bar so far, including a minute that has just ended."""
        begin = start_of_day(bar["t"])
        day = self._days.get(bar["S"])
        if day is None or day["t"] != begin:
            day = {**bar, "T": "d", "t": Time(begin)}
        else:
            volume = day["v"] + bar["v"]
            worth = day["vw"] * day["v"] + bar["vw"] * bar["v"]
            day = {
                **day,
                "h": max(day["h"], bar["h"]),
                "l": min(day["l"], bar["l"]),
                "c": bar["c"],
                "v": volume,
                "n": day["n"] + bar["n"],
                "vw": round(worth / volume, 6) if volume else 0.0,
            }
        self._days[bar["S"]] = day
        return day
