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

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.handoff.columns import PARTIAL, ColumnData
from mdstream.streams.spec import BarRules, Channel, Column, Kind, split_conditions
from workers.kernels import runs

TextOf = Callable[[Column, int], str]
"""The text behind a code of a column."""

_FOLDED = frozenset({"symbol", "ts", "price", "size", "recv_ts"})
_UNKNOWN = 255
_MOST = 1 << 10
"""Codes of conditions, and of tapes, whose effect is remembered."""


class Effect(IntEnum):
    """What a trade does to its minute bar."""

    NOTHING = runs.NOTHING
    VOLUME = runs.VOLUME
    """Counts in volume and trade count only."""
    ALL = runs.ALL


class Effects:
    """Looks up what trades do by their conditions and tapes; remembers every answer."""

    # The mutable state: the answers, by code of conditions + 1 and code of tape + 1; 0 is none.

    def __init__(self, rules: BarRules) -> None:
        self._rules = rules
        self._known: npt.NDArray[np.uint8] = np.full((_MOST, 16), _UNKNOWN, np.uint8)

    def of(self, conditions: Any, tape: str | None) -> Effect:
        """The effect of the strictest of `conditions` (a list, or one as text) on `tape`."""
        return self._strictest(conditions, tape or "")

    def of_rows(
        self, channel: Channel, columns: Sequence[ColumnData], text: TextOf
    ) -> npt.NDArray[np.uint8]:
        """The effect of every trade."""
        at = {column.name: index for index, column in enumerate(channel.columns)}
        rows = len(columns[0].values)
        if "conditions" not in at:
            return np.full(rows, Effect.ALL, np.uint8)
        conditions = _numbers(columns[at["conditions"]])
        tapes = _numbers(columns[at["tape"]]) if "tape" in at else np.zeros(rows, np.int64)
        known = self._known
        usual = (conditions < known.shape[0]) & (tapes < known.shape[1])
        effects = np.full(rows, _UNKNOWN, np.uint8)
        effects[usual] = known[conditions[usual], tapes[usual]]
        unknown = np.flatnonzero(effects == _UNKNOWN)
        for pair in set(zip(conditions[unknown].tolist(), tapes[unknown].tolist(), strict=True)):
            effect = self._effect(channel, pair, text)
            if pair[0] < known.shape[0] and pair[1] < known.shape[1]:
                known[pair] = effect
            effects[unknown[(conditions[unknown] == pair[0]) & (tapes[unknown] == pair[1])]] = (
                effect
            )
        return effects

    def _effect(self, channel: Channel, pair: tuple[int, int], text: TextOf) -> Effect:
        column = channel.column("conditions")
        conditions: Any = text(column, pair[0] - 1) if pair[0] else None
        if conditions is not None and column.kind is Kind.CONDITIONS:
            conditions = split_conditions(conditions)
        return self.of(conditions, text(channel.column("tape"), pair[1] - 1) if pair[1] else None)

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


def _numbers(data: ColumnData) -> npt.NDArray[np.int64]:
    """Codes + 1, and 0 where there is none."""
    numbers = data.values.astype(np.int64) + 1
    if data.mask is not None:
        numbers[~data.mask] = 0
    return numbers


def partials(
    channel: Channel, columns: Sequence[ColumnData], effects: Effects, text: TextOf
) -> npt.NDArray[np.void]:
    """The runs of a batch of trades, as `PARTIAL` rows in the order in which they began."""
    by_name = {c.name: columns[i] for i, c in enumerate(channel.columns) if c.name in _FOLDED}
    effect = effects.of_rows(channel, columns, text)
    for name in ("price", "size"):
        if (mask := by_name[name].mask) is not None:
            effect[~mask] = Effect.NOTHING
    rows = len(effect)
    room = 1 << max(4, (2 * rows).bit_length())
    scratch = np.empty((2, room), np.int64)
    out = np.empty(rows, PARTIAL)
    count = runs.fold(
        by_name["symbol"].values,
        by_name["ts"].values,
        by_name["price"].values,
        by_name["size"].values.astype(np.float64),
        effect,
        by_name["recv_ts"].values,
        scratch[0],
        scratch[1],
        out,
    )
    return out[:count]
