"""Channels and columns of the direct path: words of the table's arrays, and what kernels find with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.frames.head import APPLIED, PENDING, ROWS
from workers.kernels import address_table as t
from workers.kernels import columns as plans
from workers.kernels.columns import COUNTS_WIDTH, SCRATCH_ARRAYS
from workers.kernels.compiling import called, inlined
from workers.kernels.words import raw

MOST_ROWS = 512
"""Most rows of one channel in a batch; larger batches gain little here."""
MOST_PAYLOADS = 256

# Words of a channel.
ADDRESS, SIZE = 0, 1
"""The chunk that is being filled: its address, and its bytes."""
AT, LEFT = 2, 3
"""Its next row, and its rows that are left."""
BASE, COLUMNS = 4, 5
"""The channel's first column in the arrays of all columns, and how many it has."""
NULLS = 6
"""Result: a bit for each column with a null."""
NEWEST_BY = 7
"""The column whose greatest value is a symbol's newest row; -1 if the channel has no last values."""
RECEIVED = 8
"""The column of receive times."""
EVENT_TIME = 9
"""The column whose distance from the receive time is the delay of a row; -1 if there is none."""
START = 10
"""The chunk's first row in the frame."""
HEAD, NULLS_WORD = 11, 12
"""The address of the frame's head, and its word of the chunk's columns with nulls (`frames.head`)."""
CHANNEL_WIDTH = 13

# Words of a column.
VALUES, VALIDITY = 0, 1
"""Bytes of the chunk where its values and its null bits begin; -1 if it has no null bits."""
WIDTH = 2
"""Bytes of a value; 0 if values are bits."""
NEEDED = 3
"""Whether a row without this value is irregular."""
COLUMN_WIDTH = 4


@inlined
def mask_of(table: Any, number: int, column: int) -> Any:
    """Return the mask of a column of a channel, by its number in the channel."""
    channels = t.channels(table)
    word = number * CHANNEL_WIDTH
    count = t.rows(table)[number]
    place = channels[word + BASE] * SCRATCH_ARRAYS * MOST_ROWS
    place += (channels[word + COLUMNS] + column) * count
    return t.scratch(table)[place : place + count]


@inlined
def missing_in(table: Any, number: int, column: int) -> int:
    """Return how many rows of the batch lack a value in a column of a channel."""
    base = t.channels(table)[number * CHANNEL_WIDTH + BASE]
    return t.counts(table)[(base + column) * COUNTS_WIDTH + plans.MISSING]


@inlined
def values_at(table: Any, number: int, column: int) -> tuple[Any, int]:
    """Return the chunk of a channel, and the byte where the batch's values of a column begin."""
    channels, columns = t.channels(table), t.columns(table)
    word = number * CHANNEL_WIDTH
    place = (channels[word + BASE] + column) * COLUMN_WIDTH
    start = columns[place + VALUES] + channels[word + AT] * columns[place + WIDTH]
    return raw(t.bytes_at(channels[word + ADDRESS], channels[word + SIZE])), start


@inlined
def bools_of(table: Any, number: int, column: int) -> Any:
    """Return the booleans of a column of a channel, which are bits in frames, as bytes."""
    channels = t.channels(table)
    word = number * CHANNEL_WIDTH
    count = t.rows(table)[number]
    place = channels[word + BASE] * SCRATCH_ARRAYS * MOST_ROWS
    place += (2 * channels[word + COLUMNS] + column) * count
    return t.scratch(table)[place : place + count]


@called
def publish_keyed(head: Any, needed: int) -> None:
    """Publish that a keyed frame has `needed` rows, if it had fewer, as `Head.publish`."""
    rows = np.uint64(needed)
    if len(head) and rows > head[ROWS]:
        t.fence()
        head[PENDING] = rows
        t.fence()
        head[APPLIED] = np.uint64(0)
        t.fence()
        head[ROWS] = rows
