"""Bars of every interval, joined from the partials of successive batches, in the feed's process.

    partials ─► join: a bar a symbol and interval ─► published when the stream's time has passed it ─► rows
              ▲                                        ▲
              └── built again from the trades frame ───┘ where a correction or cancel has touched it

A bar is published when a trade of any symbol, or the clock where nothing trades, shows that its time
is over. A late trade, correction or cancel revises it: another row follows, for seconds with the next
second, for minutes with the next half minute, as the service does it. All of this depends on the order of
what came, never on how that was cut into batches.
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
from mdstream.frames.chunk import View
from mdstream.frames.columns import FrameColumns
from mdstream.handoff.columns import PARTIAL, ColumnData, PartialKind, concatenate
from mdstream.streams.spec import BAR_INTERVALS, Channel, Kind, StreamSpec
from workers.aggregation.aggregate import Effect, Effects, events_of_trades, fold
from workers.kernels import bar_table as kernels
from workers.kernels.partials import SECOND

MINUTE = 60 * SECOND
_KEPT = {SECOND: MINUTE, MINUTE: 60 * MINUTE}
"""Length of bars → how late a trade may be that still revises them."""
_EVERY = {SECOND: SECOND, MINUTE: MINUTE // 2}
"""Length of bars → how often those that are over and have changed are published."""
_START = 1024
_NUMBER = 3
"""Columns of a trade's identity that number it: symbol, exchange, id."""
_MOST_AMENDED = 100_000
_MOST_BUILT = 200_000
"""Trades of bars that are built again at one time, which takes some 30 ms."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Amended:
    """What a trade is worth after its correction or cancel."""

    price: float
    size: float
    effect: int


@dataclass(frozen=True, slots=True)
class _LastRow:
    """A bar as it was published; `values` are those of `_SAYS`."""

    complete: bool
    values: tuple[float, ...]

    def says(self, bar: Any) -> bool:
        """Whether `bar` is as it was published, but for what adding up in another order does."""
        trades, *prices, volume = self.values
        now = (bar["open"], bar["high"], bar["low"], bar["close"])
        return bool(
            trades == bar["trades"]
            and np.array_equal(prices, now, equal_nan=True)
            and np.isclose(volume, bar["volume"].sum(), rtol=1e-12, atol=0)
        )


_SAYS = ("trade_count", "open", "high", "low", "close", "volume")


def _values(view: View, rows: npt.NDArray[np.int64]) -> list[float]:
    """Values of a column, NaN where there is none."""
    values = view.values[rows].astype(np.float64)
    if len(view.validity):
        values[~view.present(rows)] = np.nan
    found: list[float] = values.tolist()
    return found


class _IntervalBars:
    """Bars of one length."""

    # The mutable state: the bars that can still change, in no order, and where each is; the list of those
    # that changed; the head (`kernels.bars`), and rows to be published.

    def __init__(self, channel: Channel, frame: FrameColumns | None, midpoints: bool) -> None:
        self.channel = channel
        self._frame = frame
        self.interval = BAR_INTERVALS[channel.name]
        self.midpoints = midpoints
        self.head: npt.NDArray[np.int64] = np.zeros(kernels.HEAD_WORDS, np.int64)
        self.head[[kernels.CLOCK, kernels.SEEN]] = kernels.NEVER
        self.head[kernels.GAP_OPEN] = 1  # what was before the stream is not known
        self._gaps: npt.NDArray[np.int64] = np.zeros((kernels.GAPS, 2), np.int64)
        self._gaps[0] = kernels.NEVER, -kernels.NEVER
        self._rows: Array = np.zeros(_START, kernels.ROW)
        self._make_room(np.zeros(0, kernels.BAR), _START)

    def join(self, partials: Array, first: int) -> int:
        """Join partials from `first` on; the one before which bars have to be built again, if any."""
        while True:
            first = kernels.join(
                partials,
                first,
                self.interval,
                _EVERY[self.interval],
                _KEPT[self.interval],
                self.midpoints,
                self.bars,
                self.table,
                self.changed,
                self._gaps,
                self.head,
                self._rows,
            )
            why = self.head[kernels.WHY]
            if why == kernels.FULL:
                self._forget()
            elif why == kernels.ROOM:
                self._make_rows()
            else:
                return first

    def touch(self, symbol: int, ts: int, recv: int) -> None:
        """A trade of this time was amended: its bar must be built again."""
        if self.head[kernels.COUNT] >= len(self.bars):
            self._forget()
        start = ts - ts % self.interval
        slot = kernels.touch(
            symbol, start, recv, self.bars, self.table, self.changed, self._gaps, self.head
        )
        if slot >= 0 and self._was_published(symbol, start):
            self.bars["flags"][slot] |= kernels.PUBLISHED

    def _was_published(self, symbol: int, start: int) -> bool:
        """Whether a bar that is no longer here was."""
        rows = self._rows[: self.head[kernels.OUT]]
        if np.any((rows["symbol"] == symbol) & (rows["ts"] == start)):
            return True
        return self._frame is not None and any(
            np.any((views["symbol"].values[:rows] == symbol) & (views["ts"].values[:rows] == start))
            for _, rows, views in self._frame.newest_first(self._frame.rows)
        )

    def see_published(self) -> None:
        """Go by the frame as to which bars have been published, are complete, and have not changed since:
        the clock, which nobody remembers, may have ended bars that no trade did.
        """
        bars = self.bars[: self.head[kernels.COUNT]]
        published = self._last_published(bars["second"].min(initial=0))
        keys = zip(bars["symbol"].tolist(), bars["second"].tolist(), strict=True)
        for slot, key in enumerate(keys):
            flags = int(bars["flags"][slot]) & ~kernels.PUBLISHED
            if (row := published.get(key)) is not None:
                flags |= kernels.PUBLISHED | (0 if row.complete else kernels.INCOMPLETE)
                if not flags & kernels.STALE and row.says(bars[slot]):
                    flags &= ~kernels.DIRTY
            bars["flags"][slot] = flags
        kernels.index(self.bars, self.table, self.changed, self.head)

    def _last_published(self, oldest: int) -> dict[tuple[int, int], _LastRow]:
        """By symbol and begin, the last row of each bar that begins at `oldest` or later."""
        found: dict[tuple[int, int], _LastRow] = {}
        assert self._frame is not None
        for _, rows, views in reversed(list(self._frame.newest_first(self._frame.rows))):
            kept = np.flatnonzero(views["ts"].values[:rows] >= oldest)
            symbols, times = (views[name].values[kept].tolist() for name in ("symbol", "ts"))
            complete = views["complete"].bits(kept).tolist()
            values = zip(*(_values(views[name], kept) for name in _SAYS), strict=True)
            for symbol, ts, whole, row in zip(symbols, times, complete, values, strict=True):
                found[symbol, ts] = _LastRow(whole, row)
        return found

    def stale(self) -> npt.NDArray[np.intp]:
        """The bars that must be."""
        flags = self.bars["flags"][: self.head[kernels.COUNT]]
        return np.flatnonzero(flags & kernels.STALE)

    def leave(self, slots: Array) -> int:
        """Leave bars as they are that cannot be built again; how many."""
        self.bars["flags"][slots] &= ~np.uint32(kernels.STALE)
        empty = slots[self.bars["trades"][slots] == 0]
        self.bars["flags"][empty] &= ~np.uint32(kernels.DIRTY)
        self.head[kernels.TO_BUILD] -= len(slots)
        kernels.index(self.bars, self.table, self.changed, self.head)
        return len(slots)

    def build(self, slots: Array, partials: Array) -> None:
        """Build bars again from all partials of their symbols."""
        kernels.build(self.interval, partials, self.bars, self.table, self.changed, slots, self.head)

    def drain(self) -> list[ColumnData]:
        """What was published, in order; nothing twice."""
        rows = self._rows[: self.head[kernels.OUT]]
        self.head[kernels.OUT] = 0
        rows = rows[np.lexsort((rows["symbol"], rows["ts"], rows["turn"]))]
        priced = rows["open"] == rows["open"]
        columns = []
        for column in self.channel.columns:
            values = rows[column.name].copy()
            if column.kind is Kind.INT:
                values = values.astype(np.int64)
            mask = priced if column.kind is Kind.FLOAT and column.nullable else None
            columns.append(ColumnData(values, None if priced.all() else mask))
        return columns

    def finish(self) -> None:
        """Publish everything; what is not over yet is not complete."""
        self._make_rows()
        kernels.close(self.interval, self.midpoints, self.bars, self.changed, self.head, self._rows)

    def _make_rows(self) -> None:
        """Room for all bars that can be published now."""
        needed = int(self.head[kernels.OUT] + self.head[kernels.CHANGED])
        if needed > len(self._rows):
            rows = np.zeros(2 * needed, kernels.ROW)
            rows[: len(self._rows)] = self._rows
            self._rows = rows

    def _forget(self) -> None:
        """Drop the bars that nothing can change any more; where these are few, make more room."""
        head, count = self.head, int(self.head[kernels.COUNT])
        bars = self.bars[:count]
        late = bars["second"] + self.interval <= head[kernels.CLOCK] - _KEPT[self.interval]
        kept = bars[~late | (bars["flags"] & kernels.DIRTY != 0)]
        room = len(self.bars)
        self._make_room(kept, 2 * room if 2 * len(kept) > room else room)

    def _make_room(self, kept: Array, room: int) -> None:
        self.bars: Array = np.zeros(room, kernels.BAR)
        self.bars[: len(kept)] = kept
        self.table: npt.NDArray[np.int32] = np.empty(4 * room, np.int32)
        self.changed: npt.NDArray[np.int32] = np.empty(room, np.int32)
        self.head[kernels.COUNT] = len(kept)
        kernels.index(self.bars, self.table, self.changed, self.head)


class Bars:
    """The `BarBuilder` of one stream."""

    # The mutable state: the bars of each interval; what became of amended trades, by row, and their new
    # numbers.

    def __init__(self, spec: StreamSpec, frames: Mapping[str, FrameColumns], text: TextOf) -> None:
        assert spec.bar_rules is not None
        self.unmatched = 0
        self._spec = spec
        self._trades = frames[spec.bar_rules.trades]
        self._text = text
        self._rules = spec.bar_rules
        self._effects = Effects(spec.bar_rules)
        midpoints = bool(spec.bar_rules.midpoints)
        self._intervals = [_IntervalBars(c, frames[c.name], midpoints) for c in spec.built_bars]
        self._amended: dict[int, _Amended] = {}
        self._renumbered: dict[tuple[Any, ...], int] = {}
        trades = spec.by_name[spec.bar_rules.trades]
        self._repeated = [name for name in trades.identity if name != trades.time]
        """Columns of a trade's identity that its amendments repeat, in the order of `kernels.find`."""

    @property
    def is_open(self) -> bool:
        return any(series.head[kernels.CHANGED] for series in self._intervals)

    @property
    def late(self) -> int:
        return int(self._intervals[-1].head[kernels.LATE])

    def join(self, partials: Array, before: int, amendments: Amendments) -> Published:
        first = 0
        for at in np.flatnonzero(partials["kind"] >= PartialKind.CORRECTION).tolist():
            self._join(partials[first:at], before)
            self._amend(partials[at], before, amendments)
            first = at + 1
        self._join(partials[first:], before)
        return self._drain()

    def finish(self) -> Published:
        for series in self._intervals:
            self._build(series, self._trades.rows, sys.maxsize)
            series.finish()
        return self._drain()

    def restore(self, partials: Array, trades: int, amendments: Amendments) -> None:
        self._join(partials, 0)
        found = [
            (kind, self._values(kind, columns, index))
            for kind, columns in amendments.items()
            for index in range(len(columns[0].values))
        ]
        for kind, values in sorted(found, key=lambda each: each[1]["recv_ts"]):
            self._apply(kind, values, trades)
        for series in self._intervals:
            while len(series.stale()):  # else nobody can say whether they are as they were published
                self._build(series, trades)
            series.see_published()
        self._drain()

    def lose(self, recv_ns: int) -> None:
        gap = np.zeros(1, PARTIAL)
        gap["kind"], gap["begun"] = PartialKind.GAP, recv_ns
        self._join(gap, self._trades.rows)

    def _drain(self) -> Published:
        return {
            series.channel.name: series.drain() for series in self._intervals if series.head[kernels.OUT]
        }

    def _join(self, partials: Array, before: int) -> None:
        for series in self._intervals:
            first = series.join(partials, 0)
            while first < len(partials):
                self._build(series, before + int(series.head[kernels.AT]))
                first = series.join(partials, first)

    # -- corrections and cancels

    def _amend(self, partial: Any, before: int, amendments: Amendments) -> None:
        kind = PartialKind(int(partial["kind"]))
        values = self._values(kind, amendments[kind], int(partial["trades"]))
        self._apply(kind, values, before + int(partial["row"]))

    def _values(self, kind: PartialKind, columns: Sequence[ColumnData], index: int) -> dict[str, Any]:
        """One amendment; what is missing is None."""
        name = self._rules.corrections if kind is PartialKind.CORRECTION else self._rules.cancels
        return {
            column.name: None
            if data.mask is not None and not data.mask[index]
            else data.values[index].item()
            for column, data in zip(self._spec.by_name[name].columns, columns, strict=True)
        }

    def _apply(self, kind: PartialKind, values: dict[str, Any], stop: int) -> None:
        """Take in an amendment of a trade below row `stop`."""
        correction = kind is PartialKind.CORRECTION
        found = self._find([values.get(f"original_{n}", values.get(n)) for n in self._repeated], stop)
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
            if values["corrected_id"] is not None:
                names = self._repeated[:_NUMBER]
                self._renumbered[tuple(values.get(f"corrected_{n}", values.get(n)) for n in names)] = row
        for series in self._intervals:
            series.touch(values["symbol"], ts, values["recv_ts"])

    def _find(self, wanted: Sequence[Any], stop: int) -> tuple[int, int] | None:
        """Row and time of the trade that an amendment means, unless it is no longer kept.

        `wanted` are the values that the amendment repeats. Of several trades with one id, price and size
        tell the right one; if none has these, it is the last of that id, for it may have been amended.
        """
        number, tie_break = wanted[:_NUMBER], wanted[_NUMBER:]
        if None in number:
            return None
        symbol, exchange, trade_id = number
        price, size = (math.nan if value is None else float(value) for value in tie_break)
        renumbered, other = self._renumbered.get(tuple(number)), None
        for start, rows, views in self._trades.newest_first(stop):
            if renumbered is not None:
                row = renumbered - start
            else:
                columns = [views[name].values for name in self._repeated]
                given: list[Any] = [*columns, rows, symbol, exchange, np.uint64(trade_id), price, size]
                row = kernels.find(*given)
                if row < -1 and other is None:
                    other = start - 2 - row, int(views["ts"].values[-2 - row])
            if row >= 0:
                return start + row, int(views["ts"].values[row])
        return other

    def _effect(self, conditions: int | None, tape: int | None) -> int:
        trades = self._spec.by_name[self._rules.trades]
        return self._effects.of_codes(trades, conditions, tape, self._text)

    def _forget_amended(self) -> None:
        """Keep what is known of amended trades within bounds: the oldest goes."""
        for known in (self._amended, self._renumbered):
            while len(known) >= _MOST_AMENDED:
                del known[next(iter(known))]  # type: ignore[arg-type]

    # -- bars built again

    def _build(self, series: _IntervalBars, stop: int, most: int = _MOST_BUILT) -> None:
        """Build bars that amendments touched again, from the trades below row `stop`: the first ones that
        have `most` trades together; the others will be next time.
        """
        slots = series.stale()
        if len(slots) and self._trades.first_row:
            kept = series.bars["second"][slots] > self._oldest_kept(stop)
            self.unmatched += series.leave(slots[~kept])
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
        """The time of the oldest trade that is kept: of bars before, some trades are gone."""
        views: dict[str, View] = {}
        for _, _, views in self._trades.newest_first(stop):  # noqa: B007
            pass
        return int(views["ts"].values[0])

    def _fold_trades(self, symbols: Array, span: tuple[int, int], stop: int) -> Array:
        """The partials of some symbols' trades in a span of time, as they count now."""
        wanted = np.zeros(int(symbols.max()) + 1, np.bool_)
        wanted[symbols] = True
        numbers, pieces = [], []
        for start, rows, views in self._trades.within("ts", *span, stop):
            codes, times = views["symbol"].values, views["ts"].values
            found = np.empty(rows, np.int64)
            found = found[: kernels.select(codes, times, rows, wanted, *span, found)]
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
    series = _IntervalBars(Channel("bars_1s", ()), None, midpoints=False)
    partials = np.zeros(1, PARTIAL)
    series.join(partials, 0)
    series.touch(0, 0, 0)
    series.build(series.stale(), partials)
    series.finish()
    texts, numbers = np.zeros(0, np.uint32), np.zeros(0, np.uint64)
    places, prices, sizes = np.zeros(0, np.uint16), np.zeros(0, np.float64), np.zeros(0, np.int64)
    for array in (texts, numbers, places, prices, sizes):
        array.setflags(write=False)  # as a frame's columns are
    kernels.find(texts, places, numbers, prices, sizes, 0, 0, 0, np.uint64(0), 0.0, 0.0)
    times = np.zeros(0, np.int64)
    times.setflags(write=False)
    kernels.select(texts, times, 0, np.zeros(1, np.bool_), 0, 0, np.zeros(0, np.int64))
