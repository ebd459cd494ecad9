"""What crosses the process boundary in place of data: a ticket out, a receipt back."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Ticket(NamedTuple):
    """A batch for a worker: the slab that holds its payloads, and its place in the order.

    `run` is the run directory, `stream` the stream's name, and `slab` the path of the slab's file, whose
    header and table say all else that a worker needs. `kernels` says whether kernels may decode it.
    """

    run: str
    stream: str
    slab: str
    sequence: int
    kernels: bool = True


class Part(NamedTuple):
    """Rows for one frame, as columns in a result area (`handoff.columns` says where each is)."""

    channel: str
    rows: int
    offset: int
    nulls: int
    """Bit i is set if column i has a null, and hence a mask."""
    heaps: tuple[int, ...]
    """Items in the heap of each column of variable size, in column order."""


class Stretch(NamedTuple):
    """An array in a result area: its first byte, and how many items it has."""

    offset: int
    items: int


class Reject(NamedTuple):
    """A message, or a whole payload (`message` -1), that cannot become a row."""

    payload: int
    message: int
    reason: str


class Found(NamedTuple):
    """What one REST body held, returned to the caller once its rows are in the frames."""

    symbols: frozenset[str]
    """Symbols with a row."""
    refused: Mapping[str, str]
    """Symbol of which every record was rejected → why the first was."""
    page_token: str
    fault: str = ""
    """Why the body as a whole cannot be used; empty if it can."""

    @property
    def is_empty(self) -> bool:
        """Whether it held no record."""
        return not self.symbols and not self.refused


class Receipt(NamedTuple):
    """What a worker made of one ticket. Without the fields that have a default, it is that of no result."""

    sequence: int
    worker: int
    """Process id."""
    start_ns: int
    end_ns: int
    cpu_ns: int
    """CPU time between the two; less than their difference if the worker waited for a core."""
    spill: str = ""
    """Path of the file that holds the result if it did not fit into the slab; else empty."""
    parts: tuple[Part, ...] = ()
    books: Part | None = None
    """The rows that still count for order books (`workers.aggregation.books`)."""
    newest: Mapping[str, Stretch] = MappingProxyType({})
    """For each part, which rows are the newest of their symbol: their numbers, int64."""
    partials: Stretch = Stretch(0, 0)
    """The partials (rows of `handoff.columns.PARTIAL`)."""
    new: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Texts by dictionary that had no code yet; `handoff.columns.PROVISIONAL` + i stands for the i-th."""
    messages: tuple[int, int] = (0, 0)
    """Messages from the stream, and from REST bodies."""
    rejects: tuple[Reject, ...] = ()
    control: tuple[dict[str, Any], ...] = ()
    """Control messages that came mixed with data."""
    bodies: Mapping[int, Found] = MappingProxyType({})
    """REST payload → what its body held."""
    delays: tuple[tuple[int, int], ...] = ()
    """Event time → receive, as (histogram bucket, messages)."""
    fell_back: int = 0
    """Payloads that the kernels began and left to the fallback decoder."""
    fault: str = ""
    """What went wrong with the kernels; the fallback decoder has decoded all payloads then."""
