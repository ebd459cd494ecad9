"""One-minute bars from the workers' partials, joined in the order of the stream.

A symbol's bar is published when its next minute begins, or when any symbol's trade is two minutes on.
A trade that comes later than that revises its bar: another row, of kind `updated`, follows once
the symbol trades in another minute again. All of this depends on the order of trades alone, not on
how they were cut into batches, so that every run over the same data publishes the same rows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mdstream.handoff.columns import ColumnData
from mdstream.streams.columns import bars
from mdstream.streams.spec import Channel, Kind

MINUTE = 60_000_000_000
_REMEMBERED = 60
"""Minutes of each symbol that a late trade can still revise."""

Pair = tuple[float, float]


def bars_1m(volume: Kind) -> Channel:
    """The channel of bars built here: the same columns as the service's own."""
    return Channel("bars_1m", bars(volume))


class BarRow(NamedTuple):
    """A published bar, in the order of the frame's columns."""

    symbol: int
    ts: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trade_count: int
    vwap: float
    kind: str
    recv_ts: int


_INTEGERS = frozenset({"ts", "trade_count", "recv_ts"})


class Bar:
    """A bar of one symbol and minute while it grows; prices NaN until a trade may set them."""

    __slots__ = (
        "close", "high", "low", "minute", "notional", "open", "published", "recv_ts", "symbol",
        "trades", "volume", "weight",
    )  # fmt: skip

    def __init__(self, symbol: int, minute: int) -> None:
        self.symbol, self.minute = symbol, minute
        self.open = self.high = self.low = self.close = math.nan
        self.volume: Pair = (0.0, 0.0)
        self.notional: Pair = (0.0, 0.0)
        self.weight: Pair = (0.0, 0.0)
        self.trades = 0
        self.recv_ts = 0
        self.published = False

    def join(self, partial: Any) -> None:
        """Take in a run of trades (a `PARTIAL` row as a tuple) that follows what is here."""
        _, trades, _, opened, high, low, closed, volume, notional, weight, recv_ts = partial
        self.trades += trades
        self.recv_ts = recv_ts
        self.volume = _joined(self.volume, volume)
        if opened == opened:
            if self.open != self.open:
                self.open, self.high, self.low = opened, high, low
            else:
                self.high, self.low = max(self.high, high), min(self.low, low)
            self.close = closed
            self.notional = _joined(self.notional, notional)
            self.weight = _joined(self.weight, weight)

    def row(self, kind: str) -> BarRow:
        """The bar as it is now: late trades may change it afterwards."""
        return BarRow(
            self.symbol, self.minute, self.open, self.high, self.low, self.close, sum(self.volume),
            self.trades, _vwap(self), kind, self.recv_ts,
        )  # fmt: skip


def _joined(left: Pair, right: Any) -> Pair:
    """The sum of two unevaluated pairs (two-sum of the heads; the tails just add up)."""
    high = left[0] + float(right[0])
    back = high - left[0]
    return high, left[1] + float(right[1]) + ((left[0] - (high - back)) + (float(right[0]) - back))


def _vwap(bar: Bar) -> float:
    """Σ price·size / Σ size over the trades that update prices and volume."""
    weight = sum(bar.weight)
    return sum(bar.notional) / weight if weight else bar.close


class BarBuilder:
    """Joins partials to bars, and hands out rows of the `bars_1m` frame."""

    # The mutable state: bars by symbol and minute, each symbol's minute of its last run, and the
    # newest minute of the stream.

    def __init__(self, volume: Kind) -> None:
        self._volume = volume
        self._bars: dict[int, dict[int, Bar]] = {}
        self._at: dict[int, int] = {}
        self._newest = -(1 << 63)

    def join(self, partials: npt.NDArray[np.void]) -> list[BarRow]:
        """Take in a batch's runs in order; the rows to publish."""
        out: list[BarRow] = []
        for partial in partials.tolist():
            symbol, minute = partial[0], partial[2]
            if minute > self._newest:
                self._newest = minute
                self._publish_quiet(minute, out)
            minutes = self._bars.setdefault(symbol, {})
            before = self._at.get(symbol)
            if before is not None and before != minute:
                self._leave(minutes, before, minute, out)
            self._at[symbol] = minute
            bar = minutes.get(minute)
            if bar is None:
                bar = minutes[minute] = Bar(symbol, minute)
                if len(minutes) > _REMEMBERED:
                    del minutes[min(minutes)]
            bar.join(partial)
        return out

    def finish(self) -> list[BarRow]:
        """The stream has ended: publish whatever is open."""
        out: list[BarRow] = []
        for symbol in sorted(self._bars):
            at = self._at.pop(symbol, None)
            for minute, bar in sorted(self._bars[symbol].items()):
                if not bar.published or minute == at:
                    self._emit(bar, out)
        self._bars.clear()
        return out

    def _leave(self, minutes: dict[int, Bar], before: int, now: int, out: list[BarRow]) -> None:
        """A symbol trades in another minute: its last one is over, unless we went back in time."""
        bar = minutes.get(before)
        if bar is not None and (now > before or bar.published or before < max(minutes)):
            self._emit(bar, out)

    def _publish_quiet(self, minute: int, out: list[BarRow]) -> None:
        """Symbols that fell silent: their bars are over too, two minutes on."""
        for symbol in sorted(self._at):
            at = self._at[symbol]
            if at <= minute - 2 * MINUTE:
                self._emit(self._bars[symbol][at], out)
                del self._at[symbol]

    def _emit(self, bar: Bar, out: list[BarRow]) -> None:
        """Publish `bar` as it is now, if it is one: the service makes none without price or volume."""
        if bar.open == bar.open and bar.open and bar.volume[0]:
            out.append(bar.row("updated" if bar.published else "minute"))
            bar.published = True

    def columns(self, rows: list[BarRow], kinds: dict[str, int]) -> list[ColumnData]:
        """`rows` as columns of the `bars_1m` frame; `kinds` gives the codes of their kinds."""
        volume = np.int64 if self._volume is Kind.INT else np.float64
        dtypes = {"symbol": np.uint32, "volume": volume, "kind": np.uint16}
        columns = []
        for name, values in zip(BarRow._fields, zip(*rows, strict=True), strict=True):
            numbers = [kinds[kind] for kind in values] if name == "kind" else values
            default = np.int64 if name in _INTEGERS else np.float64
            columns.append(ColumnData(np.array(numbers, dtypes.get(name, default))))
        return columns
