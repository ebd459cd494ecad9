"""The net change of a batch in order books: the rows that update `<stream>.books`, and what they lack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mdstream.handoff.columns import ColumnData
from mdstream.handoff.ticket import BookLosses
from mdstream.streams.spec import Channel, Mark, PayloadKind
from workers.decoding.fallback import Decoded
from workers.decoding.payloads import Payloads
from workers.kernels import levels
from workers.python_mode import either_way

_net = either_way(levels.net)


def net_rows(
    channel: Channel, columns: Sequence[ColumnData], places: npt.NDArray[np.int64]
) -> list[ColumnData]:
    """Return the rows of a batch that no later row replaces, as columns of the channel.

    `places` has a number for each row, which is that of its message (`Decoded.order_of`). In the result,
    `reset` marks each row of a symbol that was reset in the batch. A symbol that was reset and has no level
    left has one row without a level. `ts` and `recv_ts` are those of the symbol's last row.
    """
    at = channel.at
    symbols, sides, prices = (columns[at[name]].values for name in ("symbol", "side", "price"))
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
    count = _net(
        symbols,
        sides,
        words,
        places,
        resets,
        valid,
        scratch[0],
        scratch[1],
        firsts,
        lasts,
        left,
        out,
        books,
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


def find_losses(
    channel: Channel, decoded: Decoded, payloads: Payloads, symbol_of: Callable[[int], str]
) -> BookLosses | None:
    """Return which books are incomplete after a batch; None if it lost nothing.

    `streams.books` has the rule. `symbol_of` returns the symbol of a code.
    """
    lost = [*decoded.lost_levels, *((payload << 32, "") for payload in _find_gaps(payloads))]
    if not lost:
        return None
    resets = _find_resets(channel, decoded, symbol_of) if channel.name in decoded.columns else {}
    symbols: set[str] = set()
    for place, symbol in lost:
        for each in (symbol,) if symbol else resets:
            if resets.get(each, -1) <= place:  # a reset without some of its levels is not complete either
                symbols.add(each)
    return BookLosses(any(not symbol for _, symbol in lost), tuple(sorted(symbols)))


def _find_gaps(payloads: Payloads) -> Iterator[int]:
    for payload in np.flatnonzero(payloads.kinds == PayloadKind.MARK).tolist():
        if bytes(payloads.view(payload)) == Mark.GAP.value:
            yield payload


def _find_resets(channel: Channel, decoded: Decoded, symbol_of: Callable[[int], str]) -> dict[str, int]:
    """Return the place of each symbol's last reset in the batch."""
    columns = decoded.columns[channel.name]
    rows = np.flatnonzero(columns[channel.at["reset"]].values)
    codes = columns[channel.at["symbol"]].values[rows].tolist()
    last = dict(zip(codes, decoded.order_of(channel.name)[rows].tolist(), strict=True))
    return {symbol_of(code): place for code, place in last.items()}
