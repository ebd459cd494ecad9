"""Bars as a server makes them: of the very trades it sends, by the published rules.

Plain loops that share nothing but the table of rules with the engine's own bars: each can check the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mdstream.simulator.encode import Time
from mdstream.streams import STREAMS

MINUTE = 60_000_000_000
_REMEMBERED = 3 * MINUTE
_DAY = 24 * 60 * MINUTE
_NEW_YORK = 5 * 60 * MINUTE
"""When days begin, UTC: at New York's midnight, in winter."""

Message = dict[str, Any]


class BarServer:
    """Adds bars to the messages of one subscription, in place of those a market makes up."""

    # The mutable state: what moved prices in the last minutes, by symbol and minute; which of these were
    # served, and which have changed since; the days' bars; what time it is.

    def __init__(self, stream: str, subscription: Mapping[str, Sequence[str]]) -> None:
        rules = STREAMS[stream].bar_rules
        assert rules is not None
        self._rules = rules
        self._wanted = {
            wire_type: set(subscription.get(channel, ()))
            for wire_type, channel in (("b", "bars"), ("u", "updatedBars"), ("d", "dailyBars"))
        }
        self._sources = set(subscription.get("trades", ()))
        self._minutes: dict[tuple[str, int], list[Message]] = {}
        self._served: set[tuple[str, int]] = set()
        self._amended: set[tuple[str, int]] = set()
        self._days: dict[str, Message] = {}
        self._now = 0

    def added(self, messages: Iterator[Message]) -> Iterator[Message]:
        """`messages` with the bars of their trades between them."""
        for message in messages:
            if message["T"] in self._wanted and self._is_source(message["S"]):
                continue
            at = int(message["t"])
            if at // (MINUTE // 2) > self._now // (MINUTE // 2):
                yield from self._over(at)
            self._now = max(self._now, at)
            self._heed(message, at)
            yield message

    def _is_source(self, symbol: str) -> bool:
        return symbol in self._sources or "*" in self._sources

    def _heed(self, message: Message, at: int) -> None:
        key = message["S"], at - at % MINUTE
        match message["T"]:
            case "t":
                self._minutes.setdefault(key, []).append(dict(message))
            case "q" if self._rules.midpoints and self._is_source(message["S"]):
                self._minutes.setdefault(key, []).append(dict(message))
            case "x" | "c":
                self._amend(message)

    def _amend(self, message: Message) -> None:
        number = message["i"] if message["T"] == "x" else message["oi"]
        for key, trades in self._minutes.items():
            for trade in trades if key[0] == message["S"] else ():
                if trade["T"] == "t" and (trade["i"], trade["x"]) == (number, message["x"]):
                    if message["T"] == "x":
                        trades.remove(trade)
                    else:
                        names = {"p": "cp", "s": "cs", "c": "cc", "i": "ci"}
                        trade |= {name: message[new] for name, new in names.items()}
                    self._amended.add(key)
                    return

    def _over(self, at: int) -> Iterator[Message]:
        """Half a minute is over: the bars of the minutes before, or what has changed in them since."""
        begin = at - at % MINUTE
        if begin > self._now - self._now % MINUTE:
            for key in sorted(key for key in self._minutes if key[1] < begin):
                if key not in self._served and (bar := self._bar("b", *key)) is not None:
                    self._served.add(key)
                    yield from self._if_wanted(bar)
                    yield from self._if_wanted(self._day(bar))
            kept = begin - _REMEMBERED
            self._minutes = {k: trades for k, trades in self._minutes.items() if k[1] >= kept}
            self._served = {key for key in self._served if key[1] >= kept}
        else:
            amended, self._amended = self._amended, set()
            for key in sorted(amended & self._served):
                if (bar := self._bar("u", *key)) is not None:
                    yield from self._if_wanted(bar)

    def _if_wanted(self, bar: Message) -> Iterator[Message]:
        if bar["S"] in (wanted := self._wanted[bar["T"]]) or "*" in wanted:
            yield bar

    def _bar(self, wire_type: str, symbol: str, begin: int) -> Message | None:
        """A minute's bar, by a loop over its trades; None if it has no price or no volume."""
        prices: list[float] = []
        volume = count = weight = worth = 0
        for it in self._minutes[symbol, begin]:
            if it["T"] == "q":
                prices.append((it["bp"] + it["ap"]) / 2)
                continue
            in_price, in_volume = self._rules.counts(it.get("c", ()), it.get("z", ""))
            if in_volume:
                volume, count = volume + it["s"], count + 1
            if in_price:
                prices.append(it["p"])
                weight, worth = weight + it["s"], worth + it["p"] * it["s"]
        if not prices or not (volume or self._rules.midpoints):
            return None
        return {
            "T": wire_type, "S": symbol, "o": prices[0], "h": max(prices), "l": min(prices),
            "c": prices[-1], "v": volume, "n": count, "vw": round(worth / weight, 6) if weight else 0.0,
            "t": Time(begin),
        }  # fmt: skip

    def _day(self, bar: Message) -> Message:
        """The day's bar so far, with a minute that has just ended."""
        begin = bar["t"] - (bar["t"] - _NEW_YORK) % _DAY
        day = self._days.get(bar["S"])
        if day is None or day["t"] != begin:
            day = {**bar, "T": "d", "t": Time(begin)}
        else:
            volume = day["v"] + bar["v"]
            worth = day["vw"] * day["v"] + bar["vw"] * bar["v"]
            day = {
                **day, "h": max(day["h"], bar["h"]), "l": min(day["l"], bar["l"]), "c": bar["c"],
                "v": volume, "n": day["n"] + bar["n"], "vw": round(worth / volume, 6) if volume else 0.0,
            }  # fmt: skip
        self._days[bar["S"]] = day
        return day
