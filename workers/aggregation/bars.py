"""Bars of every interval, joined from the partials of successive batches.

Runs in the feed, although it is in workers/, because it uses compiled kernels.

    partials ─► join: one bar per symbol and interval ─► published when the clock passes its end ─► rows
              ▲                                            ▲
              └──── rebuilt from the trades frame ─────────┘ after a correction or cancel

A bar is published when a trade of any symbol, or the clock if nothing trades, shows that its time is over.
A late trade, a correction or a cancel revises it. It is published again: seconds at the next second,
minutes at the next half minute, as the service does. The result depends only on the order of the payloads.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.frames.bar_builder import Amendments, Published, TextOf
from mdstream.frames.chunk import ColumnView
from mdstream.frames.frame_columns import FrameColumns
from mdstream.handoff.columns import PARTIAL, ColumnData, PartialKind, concatenate
from mdstream.streams.amendment_rule import ID_COLUMNS, is_in_reach, list_matching_columns, name_of
from mdstream.streams.spec import Channel, StreamSpec
from workers.aggregation.aggregate import Effect, Effects, events_of_trades, fold
from workers.aggregation.interval_bars import IntervalBars
from workers.kernels import bar_table as kernels
from workers.python_mode import either_way

_find, _select = either_way(kernels.find), either_way(kernels.select)

_MOST_AMENDED = 100_000
_MOST_BUILT = 200_000
"""Number of trades whose bars are rebuilt in one go, which takes some 30 ms."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Amended:
    """The value of a trade after its correction or cancel."""

    price: float
    size: float
    effect: int


class Bars:
    """The `BarBuilder` of one stream."""

    # Written while partials and amendments are joined. The direct path changes the bars, too.
    intervals: list[IntervalBars]
    unmatched: int
    """Amendments whose trade was not found, and bars that could not be rebuilt."""
    _amended: dict[int, _Amended]
    """Row of an amended trade → its new value."""
    _corrected: dict[tuple[Any, ...], int]
    """Matching values → row of a trade that a correction has changed."""

    def __init__(self, spec: StreamSpec, frames: Mapping[str, FrameColumns], text: TextOf) -> None:
        assert spec.bar_rules is not None
        self.unmatched = 0
        self._spec = spec
        self._trades = frames[spec.bar_rules.trades]
        self._text = text
        self._rules = spec.bar_rules
        self._effects = Effects(spec.bar_rules)
        midpoints = bool(spec.bar_rules.midpoints)
        self.intervals = [IntervalBars(c, frames[c.name], midpoints) for c in spec.built_bars]
        self._amended = {}
        self._corrected = {}
        trades = spec.by_name[spec.bar_rules.trades]
        self._matching_columns = list_matching_columns(trades)
        """Columns that match an amendment to its trade, in the order of `kernels.find`."""

    @property
    def is_open(self) -> bool:
        return any(series.head[kernels.CHANGED] for series in self.intervals)

    @property
    def late(self) -> int:
        return int(self.intervals[-1].head[kernels.LATE])

    def join(self, partials: Array, before: int, amendments: Amendments) -> Published:
        first = 0
        for at in np.flatnonzero(partials["kind"] >= PartialKind.CORRECTION).tolist():
            self._join(partials[first:at], before)
            self._amend(partials[at], before, amendments)
            first = at + 1
        self._join(partials[first:], before)
        return self.drain()

    def finish(self) -> Published:
        for series in self.intervals:
            self._build(series, self._trades.rows, sys.maxsize)
            series.finish()
        return self.drain()

    def restore(self, partials: Array, trades: int, amendments: Amendments) -> None:
        self._join(partials, 0)
        found = [
            (kind, self._values(kind, columns, index))
            for kind, columns in amendments.items()
            for index in range(len(columns[0].values))
        ]
        for kind, values in sorted(found, key=lambda each: each[1]["recv_ts"]):
            self._apply(kind, values, trades)
        for series in self.intervals:
            while len(series.stale()):  # rebuild all first: only then compare them with published rows
                self._build(series, trades)
            series.see_published()
        self.drain()

    def mark_lost_batch(self, recv_ns: int) -> None:
        gap = np.zeros(1, PARTIAL)
        gap["kind"], gap["begun"] = PartialKind.GAP, recv_ns
        self._join(gap, self._trades.rows)

    def drain(self) -> Published:
        return {
            series.channel.name: series.drain() for series in self.intervals if series.head[kernels.OUT]
        }

    def _join(self, partials: Array, before: int) -> None:
        self.resume(partials, [0] * len(self.intervals), before)

    def resume(self, partials: Array, firsts: Sequence[int], before: int) -> None:
        for series, start in zip(self.intervals, firsts, strict=False):
            first = series.join(partials, start)
            while first < len(partials):
                self._build(series, before + int(series.head[kernels.AT]))
                first = series.join(partials, first)

    # -- corrections and cancels

    def _amend(self, partial: Any, before: int, amendments: Amendments) -> None:
        kind = PartialKind(int(partial["kind"]))
        values = self._values(kind, amendments[kind], int(partial["trades"]))
        self._apply(kind, values, before + int(partial["row"]))

    def _values(self, kind: PartialKind, columns: Sequence[ColumnData], index: int) -> dict[str, Any]:
        """Return one amendment; missing values are None."""
        name = self._rules.corrections if kind is PartialKind.CORRECTION else self._rules.cancels
        return {
            column.name: None
            if data.mask is not None and not data.mask[index]
            else data.values[index].item()
            for column, data in zip(self._spec.by_name[name].columns, columns, strict=True)
        }

    def _apply(self, kind: PartialKind, values: dict[str, Any], stop: int) -> None:
        """Apply an amendment to a trade below row `stop`."""
        correction = kind is PartialKind.CORRECTION
        found = self._find(
            [values.get(f"original_{n}", values.get(n)) for n in self._matching_columns], values["ts"], stop
        )
        if found is None:
            self.unmatched += 1
            return
        row, ts = found
        self._forget_amended()
        self._amended[row] = _Amended(0.0, 0.0, Effect.NOTHING)
        if correction:
            price, size = values["corrected_price"], values["corrected_size"]
            if price is not None and size is not None:
                effect = self._effect(values["corrected_conditions"], values["tape"])
                self._amended[row] = _Amended(price, float(size), effect)
            now = tuple(values.get(f"corrected_{n}", values.get(n)) for n in self._matching_columns)
            self._corrected[now] = self._corrected[now[:ID_COLUMNS]] = row
        for series in self.intervals:
            series.touch(values["symbol"], ts, values["recv_ts"])

    def _find(self, wanted: Sequence[Any], at: int, stop: int) -> tuple[int, int] | None:
        """Return the row and time of the trade that an amendment means; None if it is not kept.

        `wanted` has the values of `_matching_columns`, `at` is the amendment's time. Rows are in the order
        of arrival, so the newest row below `stop` that fits is the one (`streams/amendment_rule.py`); if
        all that fit are amended, the newest of these.
        """
        number = wanted[:ID_COLUMNS]
        if None in number:
            return None
        is_exact = None not in wanted
        symbol, exchange, trade_id = number
        price, size = (math.nan if value is None else float(value) for value in wanted[ID_COLUMNS:])
        corrected = self._corrected.get(name_of(wanted))
        amended: tuple[int, int] | None = None
        for start, rows, views in self._trades.newest_first(stop):
            times = views["ts"].values
            if corrected is not None:
                if corrected >= start:
                    return corrected, int(times[corrected - start])
                continue
            columns = [views[name].values for name in self._matching_columns]
            row = rows
            while row >= 0:
                given: list[Any] = [*columns, row, symbol, exchange, np.uint64(trade_id), price, size]
                row = _find(*given)
                if row < -1 and not is_exact:
                    row = -2 - row
                if row < 0:
                    break
                if not is_in_reach(int(times[row]), at):
                    continue
                if start + row not in self._amended:
                    return start + row, int(times[row])
                amended = amended or (start + row, int(times[row]))
        return amended

    def _effect(self, conditions: int | None, tape: int | None) -> int:
        trades = self._spec.by_name[self._rules.trades]
        return self._effects.of_codes(trades, conditions, tape, self._text)

    def _forget_amended(self) -> None:
        """Drop the oldest amended trades if there are too many."""
        for known in (self._amended, self._corrected):
            while len(known) >= _MOST_AMENDED:
                del known[next(iter(known))]  # type: ignore[arg-type]

    # -- rebuilding

    def _build(self, series: IntervalBars, stop: int, most: int = _MOST_BUILT) -> None:
        """Rebuild bars with amended trades from the trades below row `stop`.

        At most about `most` trades are read; the other bars wait for the next call.
        """
        slots = series.stale()
        if len(slots) and self._trades.first_row:
            kept = series.bars["second"][slots] > self._oldest_kept(stop)
            self.unmatched += series.give_up(slots[~kept])
            slots = slots[kept]
        if not len(slots):
            return
        bars = series.bars[slots]
        order = np.lexsort((bars["symbol"], bars["second"]))
        trades = np.cumsum(bars["trades"][order])
        slots = slots[order[: max(1, int(np.searchsorted(trades, most, side="right")))]]
        begins, symbols = series.bars["second"][slots], np.unique(series.bars["symbol"][slots])
        span = int(begins.min()), int(begins.max()) + series.interval
        series.build(slots, self._fold_trades(symbols, span, stop))

    def _oldest_kept(self, stop: int) -> int:
        """Return the time of the oldest kept trade. Older bars lack some of their trades."""
        views: dict[str, ColumnView] = {}
        for _, _, views in self._trades.newest_first(stop):  # noqa: B007
            pass
        return int(views["ts"].values[0])

    def _fold_trades(self, symbols: Array, span: tuple[int, int], stop: int) -> Array:
        """Return the partials of some symbols' trades in a time span, with amendments applied."""
        wanted = np.zeros(int(symbols.max()) + 1, np.bool_)
        wanted[symbols] = True
        numbers, pieces = [], []
        for start, rows, views in self._trades.within("ts", *span, stop):
            codes, times = views["symbol"].values, views["ts"].values
            found = np.empty(rows, np.int64)
            found = found[: _select(codes, times, rows, wanted, *span, found)]
            numbers.append(found + start)
            pieces.append(self._trades.take(views, found))
        trades = self._spec.by_name[self._rules.trades]
        columns = [concatenate(list(reversed(each))) for each in zip(*pieces, strict=True)]
        events = events_of_trades(trades, columns, self._effects, self._text)
        for index, row in enumerate(np.concatenate(numbers[::-1]).tolist()):
            if (amended := self._amended.get(row)) is not None:
                events.put(index, amended.price, amended.size, amended.effect)
        return fold(events)


def warm() -> None:
    """Run every kernel once."""
    series = IntervalBars(Channel("bars_1s", ()), None, midpoints=False)
    partials = np.zeros(1, PARTIAL)
    series.join(partials, 0)
    series.touch(0, 0, 0)
    series.build(series.stale(), partials)
    series.finish()
    texts, numbers = np.zeros(0, np.uint32), np.zeros(0, np.uint64)
    places, prices, sizes = np.zeros(0, np.uint16), np.zeros(0, np.float64), np.zeros(0, np.float64)
    for array in (texts, numbers, places, prices, sizes):
        array.setflags(write=False)  # as in a frame's columns
    _find(texts, places, numbers, prices, sizes, 0, 0, 0, np.uint64(0), 0.0, 0.0)
    times = np.zeros(0, np.int64)
    times.setflags(write=False)
    _select(texts, times, 0, np.zeros(1, np.bool_), 0, 0, np.zeros(0, np.int64))
