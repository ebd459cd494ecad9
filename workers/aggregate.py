"""Trades of a batch to one-minute partials, by Alpaca's rules for minute bars.

A partial is a *run*: consecutive trades of one symbol that fall in one minute. A new run begins with
every change of minute, also a change back (a late trade), and every run ends when the stream as a
whole comes to a new minute. So the feed, which joins the runs of successive batches, gets the same
bars wherever a batch happened to end.

Sums of floats depend on the order in which they are added, and runs are cut differently each time.
Each sum is therefore kept as an unevaluated pair (Knuth's two-sum: the rounded sum and what rounding
lost), good to some 100 bits, and rounded once, in the finished bar.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.handoff.columns import PARTIAL, ColumnData
from mdstream.streams.spec import BarRules, Channel
from workers.columns import Rows

MINUTE = 60_000_000_000


class Effect(IntEnum):
    """What a trade does to its minute bar."""

    NOTHING = 0
    VOLUME = 1
    """Counts in volume and trade count only."""
    ALL = 2


class Effects:
    """Looks up what a trade does by its conditions and tape; remembers every answer."""

    def __init__(self, rules: BarRules) -> None:
        self._rules = rules
        self._known: dict[tuple[Any, Any], Effect] = {}

    def of(self, conditions: Any, tape: Any) -> Effect:
        """The effect of the strictest of `conditions` (a list, or one as text) on `tape`."""
        key = (tuple(conditions) if type(conditions) is list else conditions, tape)
        effect = self._known.get(key)
        if effect is None:
            effect = self._known[key] = self._strictest(conditions, tape or "")
        return effect

    def _strictest(self, conditions: Any, tape: str) -> Effect:
        effect = Effect.ALL
        for condition in conditions or ():
            for table, weaker in (
                (self._rules.volume_only, Effect.VOLUME),
                (self._rules.nothing, Effect.NOTHING),
            ):
                tapes = table.get(condition)
                if tapes is not None and (not tapes or tape in tapes):
                    effect = min(effect, weaker)
        return effect


def add(total: tuple[float, float], value: float) -> tuple[float, float]:
    """`total`, a pair of floats, plus `value`, without loss (two-sum)."""
    high, low = total
    new = high + value
    back = new - high
    return new, low + ((high - (new - back)) + (value - back))


class Run:
    """One run of trades while it grows. Prices are NaN until a trade may set them."""

    __slots__ = (
        "close", "high", "low", "minute", "notional", "open", "recv_ts", "symbol", "trades",
        "volume", "weight",
    )  # fmt: skip

    def __init__(self, symbol: int, minute: int) -> None:
        self.symbol, self.minute = symbol, minute
        self.open = self.high = self.low = self.close = math.nan
        self.volume = self.notional = self.weight = (0.0, 0.0)
        self.trades = 0
        self.recv_ts = 0

    def trade(self, price: float, size: float, effect: Effect) -> None:
        """Take in one trade that does not do nothing."""
        self.trades += 1
        self.volume = add(self.volume, size)
        if effect is Effect.ALL:
            if self.trades == 1 or self.open != self.open:
                self.open = self.high = self.low = price
            elif price > self.high:
                self.high = price
            elif price < self.low:
                self.low = price
            self.close = price
            self.notional = add(self.notional, price * size)
            self.weight = add(self.weight, size)

    def row(self) -> tuple[Any, ...]:
        """The run in the order of `PARTIAL`."""
        return (
            self.symbol, self.trades, self.minute, self.open, self.high, self.low, self.close,
            self.volume, self.notional, self.weight, self.recv_ts,
        )  # fmt: skip


def partials(
    channel: Channel, rows: Rows, columns: list[ColumnData], effects: Effects
) -> npt.NDArray[np.void]:
    """The runs of a batch of trades, as `PARTIAL` rows in the order in which they began."""
    at = {column.name: i for i, column in enumerate(channel.columns)}

    def listed(name: str) -> list[Any]:
        data = columns[at[name]]
        values: list[Any] = data.values.tolist()
        if data.mask is None:
            return values
        return [v if there else None for v, there in zip(values, data.mask, strict=True)]

    current: dict[int, Run] = {}
    runs: list[Run] = []
    newest = -(1 << 63)
    for record, symbol, ts, price, size, recv_ts in zip(
        rows.records,
        listed("symbol"),
        listed("ts"),
        listed("price"),
        listed("size"),
        rows.recv_ns,
        strict=True,
    ):
        effect = effects.of(record.get("c"), record.get("z"))
        if effect is Effect.NOTHING or price is None or size is None:
            continue
        minute = ts - ts % MINUTE
        if minute > newest:
            newest = minute
            current.clear()
        run = current.get(symbol)
        if run is None or run.minute != minute:
            run = current[symbol] = Run(symbol, minute)
            runs.append(run)
        run.trade(price, size, effect)
        run.recv_ts = recv_ts
    return np.array([run.row() for run in runs], PARTIAL)
