"""Rejects as rows: what could not become a row of its channel, with the reason.

Their columns go the way of all others: a worker makes them in its result area, and the feed copies them to
the frame `<stream>.rejects`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mdstream.handoff.columns import ColumnData
from mdstream.handoff.ticket import Reject
from mdstream.streams.spec import PayloadKind


class RejectRow(NamedTuple):
    """A row of `<stream>.rejects`, in the order of its columns."""

    kind: str
    place: str
    reason: str
    data: bytes
    recv_ns: int


def reject_row(kind: PayloadKind, reject: Reject, recv_ns: int) -> RejectRow:
    """Return the row of a message of a payload, or of all of it.

    Its receive time says which payload it was in. Rows do not depend on how payloads were batched.
    """
    return RejectRow(kind.name.lower(), place_of(kind, reject), reject.reason, reject.data, recv_ns)


def place_of(kind: PayloadKind, reject: Reject) -> str:
    """Return where a reject is in its payload: `message 3`, `record trades.AAPL[2]`, `whole payload`."""
    whole, part = ("payload", "message") if kind.from_stream else ("body", "record")
    if reject.message < 0:
        return f"whole {whole}"
    return reject.place or f"{part} {reject.message + 1}"


def make_columns(rows: Sequence[RejectRow]) -> list[ColumnData]:
    """Return rows as columns of `REJECTS`."""
    texts = [_pack([text.encode(errors="replace") for text in column]) for column in _texts(rows)]
    data = _pack([row.data for row in rows])
    return [*texts, data, ColumnData(np.array([row.recv_ns for row in rows], np.int64))]


def read_rows(columns: Sequence[ColumnData]) -> Iterator[RejectRow]:
    """Yield columns of `REJECTS` as rows."""
    kinds, places, reasons, data = (_unpack(column) for column in columns[:4])
    times = columns[4].values.tolist()
    for kind, place, reason, raw, recv_ns in zip(kinds, places, reasons, data, times, strict=True):
        yield RejectRow(kind.decode(), place.decode(), reason.decode(), raw, recv_ns)


def _texts(rows: Sequence[RejectRow]) -> tuple[list[str], ...]:
    return [row.kind for row in rows], [row.place for row in rows], [row.reason for row in rows]


def _pack(items: Sequence[bytes]) -> ColumnData:
    ends = np.cumsum([len(item) for item in items], dtype=np.int64)
    return ColumnData(ends, None, np.frombuffer(b"".join(items), np.uint8))


def _unpack(column: ColumnData) -> Iterator[bytes]:
    assert column.heap is not None
    start = 0
    for end in column.values.tolist():
        yield column.heap[start:end].tobytes()
        start = end
