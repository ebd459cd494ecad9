"""Which order books a rejected message of a stream may be of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mdstream.streams.books import book_channel
from mdstream.streams.spec import PayloadKind, StreamSpec
from mdstream.venues.alpaca.bodies import SYMBOL, TYPE
from workers.decoding.payloads import Piece
from workers.decoding.salvage import Unreadable, json_messages


def books_of(message: Any, spec: StreamSpec) -> Collection[str]:
    """Return the symbols whose books a rejected message may be of; an empty one stands for all books."""
    books = book_channel(spec)
    if books is None:
        return ()
    if type(message) is Unreadable:
        types, symbols = message.texts(TYPE), message.texts(SYMBOL)
    elif type(message) is dict:
        types, symbols = (
            [value] if type(value := message.get(key)) is str else [] for key in (TYPE, SYMBOL)
        )
    else:
        types = symbols = []
    if types and not set(types).intersection(books.types):
        return ()
    return symbols or [""]


def books_in(piece: Piece, spec: StreamSpec) -> Collection[str]:
    """Return the same for a rejected payload."""
    if not piece.kind.from_stream:
        return ()
    found = json_messages(bytes(piece.data)) if piece.kind is PayloadKind.JSON else None
    return {symbol for message in found or [None] for symbol in books_of(message, spec)}
