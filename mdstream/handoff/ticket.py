"""Tickets and receipts, which cross the process boundary in place of data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Ticket(NamedTuple):
    """Asks to decode a batch."""

    run: str
    """The run directory."""
    stream: str
    slab: str
    """Path of the slab; its header and table describe the batch."""
    sequence: int
    """Number of the batch in the order of the stream."""
    kernels: bool = True
    """Whether kernels may decode it; otherwise the fallback decoder does."""


class Part(NamedTuple):
    """Rows for one frame, as columns in a result area (`handoff.columns` describes the layout)."""

    channel: str
    rows: int
    offset: int
    nulls: int
    """Bit i is set if column i has a mask, because it has a null."""
    heaps: tuple[int, ...]
    """Items in the heap of each column of variable size, in column order."""


class Extent(NamedTuple):
    """Place of an array in a result area: its first byte, and its number of items."""

    offset: int
    items: int


class Reject(NamedTuple):
    """A message that cannot become a row, or a whole payload (`message` is -1)."""

    payload: int
    message: int
    reason: str
    data: bytes = b""
    """Its bytes, as received."""
    part: str = ""
    """The member of the message at fault, if the others make a row, as with snapshots."""
    place: str = ""
    """Where it is in a REST body, such as `record snapshots.AAPL.latestTrade`; empty if unknown."""


class BodyContents(NamedTuple):
    """Contents of one REST body, for its caller, once the rows are in the frames."""

    symbols: frozenset[str]
    """Symbols that have a row."""
    refused: Mapping[str, str]
    """Symbol with rejected records only → the reason of the first one."""
    page_token: str
    fault: str = ""
    """Why the body as a whole cannot be used; empty if it can."""

    @property
    def is_empty(self) -> bool:
        """Whether it had no records."""
        return not self.symbols and not self.refused


class BookLosses(NamedTuple):
    """Order books that are no longer complete after a batch (`streams.books` has the rule)."""

    every: bool
    """Whether all books were incomplete at some moment. Those that were reset later are complete again."""
    symbols: tuple[str, ...]
    """Symbols whose book lacks something at the end of the batch, although it may have been reset there."""


class Receipt(NamedTuple):
    """Result of a `Ticket`. The defaults are those of a batch without a result."""

    sequence: int
    worker: int
    """Process id."""
    start_ns: int
    """When the worker began, on the monotonic clock, which all processes share."""
    end_ns: int
    cpu_ns: int
    """CPU time from start to end; it is less than the difference if the worker waited for a core."""
    result_file: str = ""
    """Path of the file with the result if it did not fit into the slab; otherwise empty."""
    parts: tuple[Part, ...] = ()
    books: Part | None = None
    """Net changes of order books (`workers.aggregation.books`)."""
    newest: Mapping[str, Extent] = MappingProxyType({})
    """Channel → numbers (int64) of the rows that are the newest of their symbol."""
    partials: Extent = Extent(0, 0)
    """The partials (rows of `handoff.columns.PARTIAL`)."""
    book_losses: BookLosses | None = None
    new: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Dictionary → texts without a code; `streams.storage.PROVISIONAL` + i stands for the i-th."""
    messages: tuple[int, int] = (0, 0)
    """Number of messages from the stream, and from REST bodies."""
    rejected: tuple[int, int] = (0, 0)
    """Number of them that are rejects, whose part is that of `REJECTS`."""
    control: tuple[dict[str, Any], ...] = ()
    """Control messages that shared a payload with data."""
    bodies: Mapping[int, BodyContents] = MappingProxyType({})
    """Index of a REST payload → contents of its body."""
    delays: tuple[tuple[int, int], ...] = ()
    """Delay from event to receipt: pairs of a histogram bucket and a number of messages."""
    fell_back: int = 0
    """Payloads that fell back from the kernels to the fallback decoder."""
    fault: str = ""
    """The error of the kernels, after which the fallback decoder decoded all payloads; empty if none."""
