"""The current order books: `<stream>.books`, built from resets and changes of levels.

All levels of all symbols are in one array, sorted by symbol, side, and price, best first. A worker reduces
each batch to its net changes (`workers.aggregation.books`), so a batch costs a few searches in that array,
however many messages it has. The best levels go to a keyed frame with one row for each symbol.

The service sends a reset after each subscription; `streams.books` says when a book is complete. Beyond
`MOST_LEVELS` of a side the worst levels are dropped, and counted. From then on the side is known only up to
the best of them, its edge, and the book is complete only while its best levels are better than that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.frames.keyed_frame import KeyedFrameWriter
from mdstream.frames.share import Share
from mdstream.handoff.columns import ColumnData
from mdstream.limits import MOST_LEVELS
from mdstream.streams.books import BOOK_DEPTH, books_frame_channel
from mdstream.streams.spec import Channel

_COMPLETE = books_frame_channel().at["complete"]

_SIDES, _EDGES, _DEPTHS = np.arange(2), np.array([-np.inf, np.inf]), np.arange(BOOK_DEPTH)

Keys = npt.NDArray[np.complex128]
"""Symbol · 2 + side as the real part, the price (negative for bids) as the imaginary part: numpy sorts
complex numbers by real part, then by imaginary part."""


class Books:
    """The books of one stream. Used only in the feed's process."""

    # Written only here.
    dropped: int
    """Dropped levels, including those of predecessors."""
    _keys: Keys
    """All levels, in order."""
    _sizes: npt.NDArray[np.float64]
    """Their sizes."""
    _complete: set[int]
    """Symbols whose book has every change since its last reset."""
    _edges: dict[int, float]
    """For sides with dropped levels (symbol · 2 + side), the best price of them, as in `_keys`."""

    def __init__(self, folder: Path, channel: Channel, share: Share, dropped: int = 0) -> None:
        self.dropped = dropped
        self._frame = KeyedFrameWriter(folder, books_frame_channel().columns, share, levels=BOOK_DEPTH)
        self.sides = channel.column("side").dictionary
        """Name of the dictionary of the sides."""
        self._at = channel.at
        self._keys = np.empty(0, np.complex128)
        self._sizes = np.empty(0)
        self._complete = set()
        self._edges = {}

    def lose(self, symbols: Collection[int] | None = None) -> None:
        """Note that the books of these symbols (None: all) are incomplete until they are reset.

        `retract` shows it, after the update of the same batch, so that readers see one state or the other.
        """
        if symbols is None:
            self._complete.clear()
        else:
            self._complete.difference_update(symbols)

    def retract(self) -> None:
        """Show that books are incomplete that lost something; those of a killed feed are, too."""
        shown = self._frame.find(_COMPLETE, 1)
        rows = shown[~np.isin(shown, list(self._complete))]
        self._frame.update(rows, [(_COMPLETE, ColumnData(np.zeros(len(rows), np.int64)))])

    def update(
        self, columns: Sequence[ColumnData], sides: Mapping[int, str], lost: Collection[int] = ()
    ) -> None:
        """Apply a batch's net changes (`aggregation.books`); `sides` has code → name of a side.

        The books of `lost` symbols are incomplete afterwards, even if they were reset.
        """
        symbol, side, price, size, reset, ts, recv = (
            columns[self._at[name]]
            for name in ("symbol", "side", "price", "size", "reset", "ts", "recv_ts")
        )
        symbols = symbol.values.astype(np.int64)
        if reset.values.any():
            self._clear(np.unique(symbols[reset.values]))
        self.lose(lost)
        there = price.values == price.values
        if price.mask is not None:
            there &= price.mask
        asks = np.zeros(len(symbols), np.bool_)
        for code, name in sides.items():
            if name == "ask":
                asks |= side.values == code
        keys = _keys(symbols * 2 + asks, np.where(asks, price.values, -price.values))
        self._change(keys[there], size.values[there])
        changed, last = np.unique(symbols[::-1], return_index=True)
        last = len(symbols) - 1 - last
        self._publish(changed, ts.values[last], recv.values[last])

    @property
    def untracked(self) -> int:
        """Updates of symbols for which the keyed frame has no room."""
        return self._frame.untracked

    def close(self) -> None:
        self._frame.close()

    def _clear(self, symbols: npt.NDArray[np.int64]) -> None:
        """Empty the books of `symbols`."""
        if len(symbols):
            self._complete.update(symbols.tolist())
            for symbol in symbols.tolist() if self._edges else ():
                for side in (2 * symbol, 2 * symbol + 1):
                    self._edges.pop(side, None)
            self._keep(~np.isin(self._keys.real.astype(np.int64) // 2, symbols))

    def _change(self, keys: Keys, sizes: npt.NDArray[np.float64]) -> None:
        """Set levels; `keys` are unique; a size of 0 removes a level."""
        order = np.argsort(keys)
        keys, sizes = keys[order], sizes[order]
        at = np.searchsorted(self._keys, keys)
        known = at < len(self._keys)
        known[known] = self._keys[at[known]] == keys[known]
        self._sizes[at[known]] = sizes[known]
        new = ~known & (sizes != 0)
        if new.any():
            self._keys = np.insert(self._keys, at[new], keys[new])
            self._sizes = np.insert(self._sizes, at[new], sizes[new])
        if (sizes == 0).any():
            self._keep(self._sizes != 0)
        if len(self._keys) > MOST_LEVELS:
            first, last = np.searchsorted(
                self._keys, _keys(np.stack((keys.real, keys.real)), _EDGES[:, None])
            )
            if (last - first > MOST_LEVELS).any():
                self._bound()

    def _bound(self) -> None:
        """Drop the worst levels of sides with more than `MOST_LEVELS`."""
        starts = np.flatnonzero(np.diff(self._keys.real, prepend=-1.0))
        places = np.arange(len(self._keys)) - np.repeat(starts, np.diff(starts, append=len(self._keys)))
        if (beyond := places >= MOST_LEVELS).any():
            self.dropped += int(beyond.sum())
            for key in self._keys[beyond].tolist():
                side, price = int(key.real), key.imag
                self._edges[side] = min(price, self._edges.get(side, price))
            self._keep(~beyond)

    def _keep(self, kept: npt.NDArray[np.bool_]) -> None:
        self._keys, self._sizes = self._keys[kept], self._sizes[kept]

    def _is_complete(self, symbol: int) -> bool:
        """Return whether the shown levels of a symbol are the best ones."""
        if symbol not in self._complete:
            return False
        for side in (2 * symbol, 2 * symbol + 1) if self._edges else ():
            if (edge := self._edges.get(side)) is not None:
                worst = np.array([-np.inf, edge])
                first, last = np.searchsorted(self._keys, _keys(np.full(2, side), worst))
                if last - first < BOOK_DEPTH:
                    return False
        return True

    def _publish(self, symbols: npt.NDArray[np.int64], ts: Any, recv: Any) -> None:
        """Write the best levels of `symbols` to the frame."""
        complete = np.array([self._is_complete(s) for s in symbols.tolist()], np.int64)
        data = [ColumnData(ts), ColumnData(recv), ColumnData(complete)]
        # By side, edge of the side, and symbol; then by side, symbol and level.
        sides = np.broadcast_to(symbols * 2 + _SIDES[:, None, None], (2, 2, len(symbols)))
        edges = np.searchsorted(self._keys, _keys(sides, _EDGES[:, None]))
        start, stop = edges[:, 0], edges[:, 1]
        at = start[..., None] + _DEPTHS
        there = at < stop[..., None]
        is_full = bool(there.all())
        if not is_full:
            at = np.where(there, at, 0)
        keys, sizes = (
            (self._keys, self._sizes) if len(self._keys) else (np.zeros(1, np.complex128), np.zeros(1))
        )
        prices, sizes = keys.imag[at], sizes[at]
        prices[0] *= -1.0
        for side in (0, 1):
            data.append(ColumnData(stop[side] - start[side]))
            for level in range(BOOK_DEPTH):
                mask = None if is_full else there[side, :, level]
                data.append(ColumnData(prices[side, :, level], mask))
                data.append(ColumnData(sizes[side, :, level], mask))
        self._frame.update(symbols, list(enumerate(data, 1)))


def _keys(real: npt.NDArray[Any], imag: Any) -> Keys:
    keys = np.empty(real.shape, np.complex128)
    keys.real, keys.imag = real, imag
    return keys
