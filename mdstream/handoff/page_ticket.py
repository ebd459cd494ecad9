"""Tickets and receipts of history: pages to workers, and files back.

body, compressed as received ══► worker: decompress ► decode ► columns ► a staged file (Arrow IPC)
staged files of one partition ══► worker: join ► compress ► a file of the store (Parquet)
"""

from __future__ import annotations

from typing import NamedTuple

from mdstream.handoff.compression import Compression
from mdstream.handoff.ticket import Reject
from mdstream.streams.spec import PayloadKind


class PageTicket(NamedTuple):
    """Asks to stage the rows of one page, as received from the service, in the file at `path`."""

    stream: str
    channel: str
    """The channel of the page's rows."""
    kind: PayloadKind
    body: bytes
    compression: Compression
    recv_ns: int
    path: str
    span: tuple[int, int]
    """The rows to keep: times from the first to the second (exclusive), ns since 1970."""
    queried: tuple[int, int]
    """The times that were requested: rows outside of `span`, but in here, are left out without a count."""
    symbols: tuple[str, ...] = ()
    """The requested symbols: rows of others are left to requests of theirs. Empty: all."""


class PageReceipt(NamedTuple):
    """Result of a `PageTicket`. There is a staged file if the page has rows."""

    rows: int
    page_token: str
    fault: str
    """Why the page as a whole cannot be used; empty if it can."""
    rejects: tuple[Reject, ...]
    """Records that cannot become rows."""
    last_ns: int
    """Time of the last row; 0 if there is none."""
    other_symbols: int = 0
    """Rows of symbols that were not requested; they are left out."""
    other_times: int = 0
    """Rows of requested symbols whose time was not requested; they are left out."""

    @property
    def is_empty(self) -> bool:
        """Whether the page had no records to keep or reject."""
        return not self.rows and not self.rejects


ArrowStream = bytes


class JoinTicket(NamedTuple):
    """Asks to join staged files of one partition, in order, into the Parquet file at `into`."""

    stream: str
    channel: str
    paths: tuple[str, ...]
    into: str
    before: tuple[str, ...] = ()
    """The staged files before them of the first symbol, which are in other files of the store: `paths` may
    repeat rows of these."""
    marks: tuple[ArrowStream, ...] = ()
    """The `marks` of receipts: the rows get the marks of their repetitions."""


class JoinReceipt(NamedTuple):
    """Result of a `JoinTicket`: what the store's log records about the file."""

    rows: int
    bytes: int
    first: dict[str, str | int]
    """The least symbol and time."""
    last: dict[str, str | int]
    """The greatest symbol and time."""
    repeated: int = 0
    """Rows that repeat another one; they are left out."""
    differing: int = 0
    """Those of them that have other values than the first (`Channel.one_per`)."""
    marks: ArrowStream = b""
    """Left-out rows that the service has marked since it sent the first one, which may be in another file:
    an Arrow stream. All files must be joined again with them.
    """
