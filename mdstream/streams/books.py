"""The columns of `<stream>.books`: the best levels of each symbol."""

from __future__ import annotations

from mdstream.streams.spec import Channel, Column, Kind, StreamSpec

BOOK_DEPTH = 10
"""Levels of each side that the frame shows."""


def book_channel(spec: StreamSpec) -> Channel | None:
    """The channel whose rows are levels of books, if the stream has one."""
    return next((channel for channel in spec.channels if channel.levels), None)


def books_frame_channel() -> Channel:
    """A row a symbol: times, whether the book is whole, and of each side how many levels it has, and the
    best of them with price and size.
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
