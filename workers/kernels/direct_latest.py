"""The direct path once rows are published: the last values of symbols.

A row of the keyed frame is written between two changes of its version (`frames.keyed_frame`). The rule
which rows are too late is that of `KeyedFrameWriter.update`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.streams.spec import MOST_AHEAD_NS
from workers.kernels import address_table as t
from workers.kernels.compiling import called
from workers.kernels.direct_layout import (
    ADDRESS,
    CHANNEL_WIDTH,
    NEWEST_BY,
    RECEIVED,
    mask_of,
    missing_in,
    publish_keyed,
    values_at,
)
from workers.kernels.newest import newest
from workers.kernels.words import as_int64, as_uint8, as_uint32, as_uint64, raw

# Words of an aspect.
CHANNEL = 0
FIRST, MOVES = 1, 2
"""The first of its moves, and their number."""
TIME_FROM, RECEIPT_FROM = 3, 4
"""The columns of the channel with time and receipt; -1 if the aspect has no time."""
TIME_TO, RECEIPT_TO, TIME_BITS = 5, 6, 7
"""Bytes of the keyed frame where the values of time and receipt begin, and the null bits of the time."""
ASPECT_WIDTH = 8

# Words of a move: from a column of the channel to one of the keyed frame.
FROM, TO = 0, 1
"""The column of the channel; the byte where the values of the other column begin."""
BITS = 2
"""The byte where its null bits begin; -1 if it has none."""
BYTES = 3
PRESENT = 4
"""Where `KeyedFrameWriter` notes which of its values are present."""
MOVE_WIDTH = 5


@called
def _is_late(table: Any, aspect: int, row: int, symbol: int) -> bool:
    """Return whether the keyed frame has a later value than a row, or the row has no time."""
    aspects, frame = t.aspects(table), raw(t.latest(table))
    number, column = aspects[aspect + CHANNEL], aspects[aspect + TIME_FROM]
    area, place = values_at(table, number, column)
    time = as_int64(area, place)[row]
    if missing_in(table, number, column) and not mask_of(table, number, column)[row]:
        return True
    _, place = values_at(table, number, aspects[aspect + RECEIPT_FROM])
    received = as_int64(area, place)[row]
    known = as_int64(frame, aspects[aspect + TIME_TO])[symbol]
    late = time < known
    ahead = time - received > MOST_AHEAD_NS
    if not (late or ahead):
        return False
    was_ahead = known - as_int64(frame, aspects[aspect + RECEIPT_TO])[symbol] > MOST_AHEAD_NS
    if ahead != was_ahead:
        late = ahead
    if late and aspects[aspect + TIME_BITS] >= 0:
        late = as_uint8(frame, aspects[aspect + TIME_BITS])[symbol >> 3] >> (symbol & 7) & 1 != 0
    return late


@called
def _move(table: Any, aspect: int, row: int, symbol: int) -> None:
    """Write the values of an aspect."""
    aspects, moves = t.aspects(table), t.moves(table)
    frame, present = raw(t.latest(table)), t.present(table)
    number = aspects[aspect + CHANNEL]
    versions = as_uint64(frame, table[t.VERSIONS])
    version = versions[symbol] | np.uint64(1)
    versions[symbol] = version
    t.fence()
    for index in range(aspects[aspect + FIRST], aspects[aspect + FIRST] + aspects[aspect + MOVES]):
        move = index * MOVE_WIDTH
        area, place = values_at(table, number, moves[move + FROM])
        width, target = moves[move + BYTES], moves[move + TO] + symbol * moves[move + BYTES]
        values, wanted = as_uint8(area, place + row * width), as_uint8(frame, target)
        for byte in range(width):
            wanted[byte] = values[byte]
        has_value = True
        if missing_in(table, number, moves[move + FROM]):
            has_value = mask_of(table, number, moves[move + FROM])[row] != 0
        present[moves[move + PRESENT] + symbol] = has_value
        if moves[move + BITS] >= 0:
            bits, bit = as_uint8(frame, moves[move + BITS]), np.uint8(1 << (symbol & 7))
            if has_value:
                bits[symbol >> 3] |= bit
            else:
                bits[symbol >> 3] &= np.uint8(255) ^ bit
    t.fence()
    versions[symbol] = version + np.uint64(1)


@called
def _update_channel(table: Any, number: int) -> None:
    """Write the newest rows of a channel to the keyed frame."""
    channels, aspects, count = t.channels(table), t.aspects(table), t.rows(table)[number]
    word = number * CHANNEL_WIDTH
    area, place = values_at(table, number, 0)
    symbols = as_uint32(area, place)
    if count == 1:
        chosen, found = t.newest(table), np.int64(1)
        chosen[0] = 0
    else:
        room = 16
        while room <= 2 * count:
            room *= 2
        _, time = values_at(table, number, channels[word + NEWEST_BY])
        _, receipt = values_at(table, number, channels[word + RECEIVED])
        address, chosen = channels[word + ADDRESS], t.newest(table)
        found = newest(
            t.bytes_at(address + place, 4 * count).view(np.uint32),
            t.bytes_at(address + time, 8 * count).view(np.int64),
            t.bytes_at(address + receipt, 8 * count).view(np.int64),
            t.places(table)[:room],
            chosen,
        )
    for aspect in range(table[t.ASPECTS]):
        first = aspect * ASPECT_WIDTH
        if aspects[first + CHANNEL] != number:
            continue
        for index in range(found):
            row = chosen[index]
            symbol = np.int64(symbols[row])
            if aspects[first + TIME_FROM] < 0 or not _is_late(table, first, row, symbol):
                _move(table, first, row, symbol)


@called
def update_latest(table: Any) -> None:
    """Update the last values with the batch, whose rows are published."""
    channels, rows = t.channels(table), t.rows(table)
    for number in range(len(rows)):
        if rows[number] and channels[number * CHANNEL_WIDTH + NEWEST_BY] >= 0:
            _update_channel(table, number)
    publish_keyed(t.latest_head(table), table[t.LATEST_ROWS])
