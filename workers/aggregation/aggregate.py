"""Fold the trades of a batch, and their amendments, to partials by Alpaca's rules.

A *partial* is consecutive trades of one symbol within one second. A new partial begins whenever the second
changes, forwards or backwards. All partials end when the stream as a whole reaches a new second, and at a
correction, a cancel or a gap marker. So the feed, which joins the partials of successive batches
(`aggregation.bars`), gets the same bars wherever a batch ended.

Sums of floats depend on the order of addition, and partials are cut differently each time. So each sum is
kept as an unevaluated pair (Knuth's two-sum: the rounded sum and the rounding error), accurate to some 100
bits. It is rounded once, in the finished bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mdstream.frames.bar_builder import TextOf
from mdstream.handoff.columns import PARTIAL, ColumnData
from mdstream.streams.bar_rules import BarRules, split_conditions
from mdstream.streams.marks import is_mark
from mdstream.streams.spec import Channel, Mark, PayloadKind, StreamSpec
from workers.decoding.fallback import Decoded
from workers.decoding.payloads import Payloads
from workers.kernels import partials
from workers.kernels.partials import TAPES, UNKNOWN
from workers.python_mode import either_way

_fold = either_way(partials.fold)

_MOST = 1 << 10
"""Number of codes of conditions for which effects are cached."""


class Effect(IntEnum):
    """The effect of a trade on its minute bar."""

    NOTHING = partials.NOTHING
    VOLUME = partials.VOLUME
    """Counts in volume and trade count only."""
    ALL = partials.ALL
    MIDPOINT = partials.MIDPOINT
    """A quote, not a trade: its midpoint sets prices."""


class Effects:
    """Looks up the effect of trades by their conditions and tapes, with a cache."""

    # Written by `of_rows` only.
    known: npt.NDArray[np.uint8]
    """The cache, indexed by code + 1 of conditions and tape; index 0 means no code."""

    def __init__(self, rules: BarRules) -> None:
        self._rules = rules
        self.known = np.full((_MOST, TAPES), UNKNOWN, np.uint8)

    def of(self, conditions: Any, tape: str | None) -> Effect:
        """Return the effect of a trade with `conditions` (a list, or one text) on `tape`."""
        price, volume = self._rules.counts(conditions or (), tape or "")
        return Effect.ALL if price else Effect.VOLUME if volume else Effect.NOTHING

    def of_rows(
        self, channel: Channel, columns: Sequence[ColumnData], text: TextOf
    ) -> npt.NDArray[np.uint8]:
        """Return the effect of every trade."""
        at = channel.at
        rows = len(columns[0].values)
        if "conditions" not in at:
            return np.full(rows, Effect.ALL, np.uint8)
        conditions = _codes_plus_one(columns[at["conditions"]])
        tapes = _codes_plus_one(columns[at["tape"]]) if "tape" in at else np.zeros(rows, np.int64)
        known = self.known
        usual = (conditions < known.shape[0]) & (tapes < known.shape[1])
        effects = np.full(rows, UNKNOWN, np.uint8)
        effects[usual] = known[conditions[usual], tapes[usual]]
        unknown = np.flatnonzero(effects == UNKNOWN)
        for pair in set(zip(conditions[unknown].tolist(), tapes[unknown].tolist(), strict=True)):
            effect = self._effect(channel, pair, text)
            if pair[0] < known.shape[0] and pair[1] < known.shape[1]:
                known[pair] = effect
            effects[unknown[(conditions[unknown] == pair[0]) & (tapes[unknown] == pair[1])]] = effect
        return effects

    def find_amended(
        self, channel: Channel, columns: Sequence[ColumnData], text: TextOf
    ) -> npt.NDArray[np.intp]:
        """Return the trades with a mark that says that they do not count."""
        if self._rules.mark not in channel.at:
            return np.empty(0, np.intp)
        column, data = channel.column(self._rules.mark), columns[channel.at[self._rules.mark]]
        marked = np.arange(len(data.values)) if data.mask is None else np.flatnonzero(data.mask)
        codes = data.values[marked]
        amended = [c for c in np.unique(codes).tolist() if is_mark(text(column, c))]
        return marked[np.isin(codes, amended)]

    def of_codes(self, channel: Channel, conditions: int | None, tape: int | None, text: TextOf) -> Effect:
        """Return the effect of one trade, by its codes."""
        pair = (-1 if conditions is None else conditions) + 1, (-1 if tape is None else tape) + 1
        return self._effect(channel, pair, text)

    def _effect(self, channel: Channel, pair: tuple[int, int], text: TextOf) -> Effect:
        column = channel.column("conditions")
        conditions: Any = text(column, pair[0] - 1) if pair[0] else None
        if conditions is not None and self._rules.has_condition_list:
            conditions = split_conditions(conditions)
        return self.of(conditions, text(channel.column("tape"), pair[1] - 1) if pair[1] else None)


def _codes_plus_one(data: ColumnData) -> npt.NDArray[np.int64]:
    """Return codes + 1, and 0 for null."""
    numbers = data.values.astype(np.int64) + 1
    if data.mask is not None:
        numbers[~data.mask] = 0
    return numbers


class Events(NamedTuple):
    """Events that change bars, in the order of receipt: one array per field."""

    symbols: npt.NDArray[np.uint32]
    times: npt.NDArray[np.int64]
    prices: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.float64]
    effects: npt.NDArray[np.uint8]
    received: npt.NDArray[np.int64]

    @classmethod
    def without_price(cls, effect: int, symbols: Any, received: Any) -> Events:
        """Return events that set no price."""
        rows = len(received)
        return cls(
            symbols, received, np.zeros(rows), np.zeros(rows), np.full(rows, effect, np.uint8), received
        )

    def put(self, index: int, price: float, size: float, effect: int) -> None:
        """Replace a trade's price, size and effect."""
        self.prices[index], self.sizes[index], self.effects[index] = price, size, effect


_MARKS = {Mark.GAP: partials.GAP, Mark.TICK: partials.TICK}


def make_partials(
    spec: StreamSpec, rules: BarRules, decoded: Decoded, payloads: Payloads, effects: Effects, text: TextOf
) -> npt.NDArray[np.void]:
    """Return the partials of a batch, as `PARTIAL` rows in the order in which they began."""
    found: list[tuple[npt.NDArray[np.int64], Events]] = []
    for name in rules.sources:
        if not name or name not in decoded.columns:
            continue
        channel, columns = spec.by_name[name], decoded.columns[name]
        if name == rules.trades:
            events = events_of_trades(channel, columns, effects, text)
        elif name == rules.midpoints:
            events = events_of_quotes(channel, columns)
        else:
            effect = partials.CORRECTION if name == rules.corrections else partials.CANCEL
            symbols, received = _pick(channel, columns, "symbol", "recv_ts")
            events = Events.without_price(effect, symbols.values, received.values)
        found.append((decoded.order_of(name), events))
    found += _marks(payloads)
    if not found:
        return np.empty(0, PARTIAL)
    return fold(in_order([places for places, _ in found], [events for _, events in found]))


def in_order(places: Sequence[npt.NDArray[np.int64]], events: Sequence[Events]) -> Events:
    """Sort events of several kinds by their places."""
    if len(events) == 1:
        return events[0]
    order = np.argsort(np.concatenate(places), kind="stable")
    return Events(*(np.concatenate(each)[order] for each in zip(*events, strict=True)))


def fold(events: Events) -> npt.NDArray[np.void]:
    """Fold events to partials."""
    rows = len(events.effects)
    room = 1 << max(4, (2 * rows).bit_length())
    scratch = np.empty((2, room), np.int64)
    out = np.empty(rows, PARTIAL)
    count = _fold(
        _plain(events.symbols),
        _plain(events.times),
        _plain(events.prices),
        _plain(events.sizes),
        _plain(events.effects),
        _plain(events.received),
        scratch[0],
        scratch[1],
        out,
    )
    return out[:count]


def _plain(array: Any) -> Any:
    """Return an array that is contiguous and writable; other layouts trigger a recompile."""
    return np.require(array, requirements=("C", "W"))


def events_of_trades(
    channel: Channel, columns: Sequence[ColumnData], effects: Effects, text: TextOf
) -> Events:
    """Return trades as events; those without price or size, or amended already, have no effect."""
    symbols, times, prices, sizes, received = _pick(
        channel, columns, "symbol", "ts", "price", "size", "recv_ts"
    )
    effect = effects.of_rows(channel, columns, text)
    for data in (prices, sizes):
        if data.mask is not None:
            effect[~data.mask] = Effect.NOTHING
    effect[effects.find_amended(channel, columns, text)] = Effect.NOTHING
    return Events(
        symbols.values,
        times.values,
        prices.values,
        sizes.values.astype(np.float64),
        effect,
        received.values,
    )


def events_of_quotes(channel: Channel, columns: Sequence[ColumnData]) -> Events:
    """Return quotes as events; a midpoint counts if the quote has both sides."""
    symbols, times, bid, ask, received = _pick(
        channel, columns, "symbol", "ts", "bid_price", "ask_price", "recv_ts"
    )
    effect = np.full(len(bid.values), Effect.MIDPOINT, np.uint8)
    for side in (bid, ask):
        if side.mask is not None:
            effect[~side.mask] = Effect.NOTHING
    middle = (bid.values + ask.values) / 2
    return Events(symbols.values, times.values, middle, np.zeros(len(middle)), effect, received.values)


def _marks(payloads: Payloads) -> list[tuple[npt.NDArray[np.int64], Events]]:
    """Return the feed's marks between the payloads as events."""
    found = []
    for at in np.flatnonzero(payloads.kinds == PayloadKind.MARK).tolist():
        effect = _MARKS[Mark(bytes(payloads.view(at)))]
        received = payloads.recv_ns[at : at + 1]
        found.append(
            (np.array([at << 32], np.int64), Events.without_price(effect, np.zeros(1, np.uint32), received))
        )
    return found


def _pick(channel: Channel, columns: Sequence[ColumnData], *names: str) -> list[ColumnData]:
    return [columns[channel.at[name]] for name in names]
