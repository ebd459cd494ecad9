"""The net change of a batch in order books: the rows that update `<stream>.books`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdstream.handoff.columns import ColumnData
from mdstream.streams.spec import Channel
from workers.kernels.levels import net


def net_rows(channel: Channel, columns: Sequence[ColumnData]) -> list[ColumnData]:
    """Return the rows of a batch that no later row replaces, as columns of the channel.

    `reset` marks each row of a symbol that was reset in the batch. A symbol that was reset and has no level
    left has one row without a level. `ts` and `recv_ts` are those of the symbol's last row.
    """
    at = channel.at
    symbols, sides, prices, times = (columns[at[name]].values for name in ("symbol", "side", "price", "ts"))
    rows = len(symbols)
    valid = np.ones(rows, np.bool_)
    for name in ("side", "price", "size"):
        if (mask := columns[at[name]].mask) is not None:
            valid &= mask
    scratch = np.empty((2, 1 << max(4, (2 * rows).bit_length())), np.int64)
    firsts, lasts, left, out = np.empty((4, rows), np.int64)
    words = np.ascontiguousarray(prices).view(np.uint64)
    resets = columns[at["reset"]].values
    books = np.empty(rows, np.int64)
    count = net(
        symbols, sides, words, times, resets, valid, scratch[0], scratch[1], firsts, lasts, left, out, books
    )
    chosen, books = out[:count], books[:count]
    made = []
    for column, data in zip(channel.columns, (columns[i] for i in range(len(at))), strict=True):
        values, mask = data.values[chosen], None if data.mask is None else data.mask[chosen]
        if column.name in ("ts", "recv_ts"):
            values = data.values[lasts[books]]
        elif column.name == "reset":
            values = firsts[books] >= 0
        elif column.name == "price" and not valid[chosen].all():
            mask = valid[chosen]
        made.append(ColumnData(values, mask))
    return made
