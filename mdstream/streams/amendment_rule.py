"""Which trade a cancel or correction means: the one rule, of the bars and of `scan`.

An amendment names its trade by the channel's identity except the time: symbol, exchange, id, price and
size. Where it has no price or size, the first three must suffice. Values that an earlier correction gave a
trade name that trade.

It means a trade that its source received before it, dated at most a day before it and, because clocks
differ, at most an hour after it. If there are several, it means the last received that no earlier amendment
means, whatever their times. The amendment that is received first chooses first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mdstream.streams.spec import Channel

ID_COLUMNS = 3
"""The first columns by which an amendment names its trade, which it always has: symbol, exchange, id."""

BEFORE_NS = 24 * 3_600_000_000_000
AFTER_NS = 3_600_000_000_000
"""How long before and after an amendment the time of its trade may be."""


def list_matching_columns(channel: Channel) -> list[str]:
    """Return the columns by which an amendment names its trade."""
    return [name for name in channel.identity if name != channel.time]


def is_in_reach(traded: int, amended: int) -> bool:
    """Return whether an amendment of one time may mean a trade of another; both in ns since 1970."""
    return amended - BEFORE_NS <= traded <= amended + AFTER_NS


def name_of(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return by what an amendment with these matching values names its trade: by all, or by its number."""
    return tuple(values[:ID_COLUMNS] if None in values[ID_COLUMNS:] else values)
