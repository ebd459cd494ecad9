"""A model of bars by plain loops over all received rows. It shares no code with the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
Row = dict[str, Any]


@dataclass
class Model:
    """The expected rows of a stream's bars of one length.

    `take` is called for each received row in order, with its kind and its fields; each kind has a method.
    `effect(trade)` returns the effect of a trade: "all", "volume" or "nothing".
    """

    interval: int
    every: int
    kept: int
    effect: Any
    midpoints: bool = False
    rows: list[Row] = field(default_factory=list)
    prices: list[Row] = field(default_factory=list)
    clock: int | None = None
    seen: tuple[int, int] = (0, 0)
    published: dict[tuple[int, int], int] = field(default_factory=dict)
    changed: dict[tuple[int, int], int] = field(default_factory=dict)
    gaps: list[list[int | None]] = field(default_factory=lambda: [[None, None]])
    incomplete: set[tuple[int, int]] = field(default_factory=set)
    late: int = 0
    unmatched: int = 0

    def take(self, what: str, it: Row) -> None:
        getattr(self, what)(it)

    def trade(self, it: Row) -> None:
        """Add a trade: symbol, ts, price, size, conditions, tape, id, exchange, recv."""
        what = self.effect(it)
        if what == "nothing":
            self.prices.append({**it, "effect": what})
            return
        self._advance(it)
        self.prices.append({**it, "effect": what})
        self._change(it)

    def quote(self, it: Row) -> None:
        """Add a quote, where midpoints count: symbol, ts, price (the midpoint), recv."""
        self._advance(it)
        self.prices.append({**it, "effect": "midpoint", "size": 0, "id": None, "exchange": None})
        self._change(it)

    def cancel(self, it: Row) -> None:
        """Cancel a trade: symbol, id, exchange, recv."""
        if (trade := self._find(it)) is not None:
            trade["effect"] = "nothing"
            self._touch(trade, it)

    def correction(self, it: Row) -> None:
        """Correct a trade: symbol, id, exchange, new_id, price, size, conditions, tape, recv."""
        if (trade := self._find(it)) is not None:
            trade |= {name: it[name] for name in ("price", "size", "conditions", "tape")}
            trade |= {"effect": self.effect(trade), "ids": {*trade.get("ids", ()), it["new_id"]}}
            self._touch(trade, it)

    def gap(self, it: Row) -> None:
        if self.gaps[-1][1] is not None:
            assert self.clock is not None
            start = self.seen[0] - self.seen[0] % self.interval
            self.gaps.append([start, None])
            again = {key: recv for key, recv in self.published.items() if key[1] >= start}
            self.changed = {**again, **self.changed}
            self.incomplete |= {key for key in self.changed if key[1] >= start}

    def tick(self, it: Row) -> None:
        if self.clock is not None:
            now = self.seen[0] + it["recv"] - self.seen[1] - SECOND
            self._set_clock(now - now % SECOND, it["recv"], data=False)

    def finish(self) -> list[Row]:
        for key in self.changed:
            if self.clock is None or key[1] + self.interval > self.clock:
                self.incomplete.add(key)
        self._publish(1 << 62)
        return self.rows

    # -- time

    def _advance(self, it: Row) -> None:
        if it["ts"] - it["recv"] <= MINUTE:
            self._set_clock(it["ts"] - it["ts"] % SECOND, it["recv"], data=True)

    def _set_clock(self, now: int, recv: int, data: bool) -> None:
        if self.clock is not None and now <= self.clock:
            return
        due = self.clock is None or now // self.every != self.clock // self.every
        self.clock = now
        if data:
            self.seen = now, recv
        if due:
            self._publish(now)
        if data and self.gaps[-1][1] is None:
            end = now + 10 * SECOND  # the first row may be late
            self.gaps[-1][1] = end - end % self.interval

    # -- bars

    def _key(self, trade: Row) -> tuple[int, int]:
        return trade["symbol"], trade["ts"] - trade["ts"] % self.interval

    def _change(self, it: Row) -> None:
        key = self._key(it)
        if self.clock is not None and key[1] + self.interval <= self.clock - self.kept:
            self.late += self.prices[-1]["effect"] != "midpoint"
            return
        self._apply_gaps(key)
        self.changed[key] = it["recv"]

    def _apply_gaps(self, key: tuple[int, int]) -> None:
        for start, end in self.gaps:
            if (start is None or key[1] >= start) and (end is None or key[1] <= end):
                self.incomplete.add(key)

    def _touch(self, trade: Row, it: Row) -> None:
        self._apply_gaps(self._key(trade))
        self.changed[self._key(trade)] = it["recv"]

    def _find(self, it: Row) -> Row | None:
        for trade in reversed(self.prices):
            same = (trade["symbol"], trade["exchange"]) == (it["symbol"], it["exchange"])
            if same and it["id"] in {trade["id"], *trade.get("ids", ())}:
                return trade
        self.unmatched += 1
        return None

    def _publish(self, before: int) -> None:
        over = sorted((k for k in self.changed if k[1] + self.interval <= before), key=lambda k: k[::-1])
        for key in over:
            row = self._bar(key)
            recv = max(self.changed.pop(key), row.pop("recv"))
            if row["open"] is not None or key in self.published:
                revised = key in self.published
                complete = key not in self.incomplete
                self.rows.append({**row, "revised": revised, "complete": complete, "recv_ts": recv})
                self.published[key] = recv

    def _bar(self, key: tuple[int, int]) -> Row:
        trades = [t for t in self.prices if self._key(t) == key and t["effect"] != "nothing"]
        prices = [t["price"] for t in trades if t["effect"] in ("all", "midpoint")]
        counting = [t for t in trades if t["effect"] != "midpoint"]
        weighing = [t for t in trades if t["effect"] == "all"]
        volume = sum((Fraction(t["size"]) for t in counting), Fraction(0))
        weight = sum((Fraction(t["size"]) for t in weighing), Fraction(0))
        worth = sum((Fraction(t["price"] * t["size"]) for t in weighing), Fraction(0))
        row = {
            "symbol": key[0],
            "ts": key[1],
            "open": None,
            "high": None,
            "low": None,
            "close": None,
            "volume": float(volume),
            "trade_count": len(counting),
            "vwap": None,
            "vwap_volume": float(weight),
            "recv": max((t["recv"] for t in trades), default=0),
        }
        if weight:
            row["vwap"] = float(worth / weight)
        if prices and all(prices) and (self.midpoints or volume):
            row |= {"open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1]}
            if not weight:
                row["vwap"] = 0.0 if self.midpoints else prices[-1]
        return row
