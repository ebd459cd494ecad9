"""What crosses the process boundary when history is fetched: pages out, files back.

body, packed as it came ══► worker: unpack ► decode ► columns ► a staged file (Arrow IPC)
staged files of one partition ══► worker: join ► compress ► a file of the store (Parquet)
"""

from __future__ import annotations

from typing import NamedTuple

from mdstream.handoff.packing import Packing
from mdstream.handoff.ticket import Reject
from mdstream.streams.spec import PayloadKind


class PageTicket(NamedTuple):
    """One page, as received from the service, and the file to stage its rows in."""

    stream: str
    channel: str
    """The channel of the rows that the records become."""
    kind: PayloadKind
    body: bytes
    packing: Packing
    recv_ns: int
    path: str
    span: tuple[int, int]
    """The rows to keep: times from the first one up to, not including, the second; ns since 1970."""


class PageReceipt(NamedTuple):
    """What a page held. There is a staged file if it has rows."""

    rows: int
    page_token: str
    fault: str
    """Why the page as a whole cannot be used; empty if it can."""
    rejects: tuple[Reject, ...]
    """Records that cannot become rows."""
    last_ns: int
    """Time of the last row; 0 if there is none."""
    plain: bytes
    """The page unpacked, where records were rejected."""

    @property
    def is_empty(self) -> bool:
        """Whether it held no record that was kept, or rejected."""
        return not self.rows and not self.rejects


class JoinTicket(NamedTuple):
    """Staged files of one partition, in the order of their rows, and the Parquet file to make of them."""

    stream: str
    channel: str
    paths: tuple[str, ...]
    into: str


class JoinReceipt(NamedTuple):
    """What the store's log records about a Parquet file."""

    rows: int
    bytes: int
    first: dict[str, str | int]
    """The least symbol and time."""
    last: dict[str, str | int]
