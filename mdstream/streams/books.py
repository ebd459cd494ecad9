"""The columns of `<stream>.books`: the best levels of each symbol, and whether the book is complete.

A book is complete if it has every change since its last reset. So it is complete from a reset until a
change of it is lost, or may be:

- a message or level of it is rejected; the other levels of the message count;
- a message is rejected that does not say its type or symbol, or a whole payload: it may be of any book;
- the connection was lost, or a batch is quarantined: there may be changes of any book in it;
- a side had more than `limits.MOST_LEVELS` levels, and one that was dropped could be among its best now.

But for the last, this does not depend on how payloads are batched.
"""

from __future__ import annotations

from mdstream.streams.spec import Channel, Column, Kind, StreamSpec

BOOK_DEPTH = 10
"""Number of levels of each side in the frame."""


def book_channel(spec: StreamSpec) -> Channel | None:
    """Return the channel whose rows are levels of books, if the stream has one."""
    return next((channel for channel in spec.channels if channel.levels), None)


def books_frame_channel() -> Channel:
    """Return the channel of `<stream>.books`, which has one row for each symbol. Its columns are the times,
    whether the book is complete, and for each side the number of levels, and price and size of the best
    ones.
    """
    columns = [
        Column("symbol", Kind.SYMBOL, "S", required=True, dictionary="symbols"),
        Column("ts", Kind.TIME),
        Column("recv_ts", Kind.TIME),
        Column("complete", Kind.INT),
    ]
    for side in ("bid", "ask"):
        columns.append(Column(f"{side}_levels", Kind.INT))
        for level in range(1, BOOK_DEPTH + 1):
            columns.append(Column(f"{side}_price_{level}", Kind.FLOAT))
            columns.append(Column(f"{side}_size_{level}", Kind.FLOAT))
    return Channel("books", (*columns, Column("version", Kind.UINT, required=True)))
