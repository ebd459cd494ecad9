"""What crosses the process boundary where history is fetched: pages out, files back.

body, packed as it came ══► worker: unpack ► decode ► columns ► a staged file (Arrow IPC)
staged files of one partition ══► worker: join ► compress ► a file of the store (Parquet)
"""

from __future__ import annotations

from typing import NamedTuple

from mdstream.handoff.packing import Packing
from mdstream.handoff.ticket import Reject
from mdstream.streams.spec import PayloadKind


class PageTicket(NamedTuple):
    """One page, as it came from the service, and the file that its rows shall be staged in."""

    stream: str
    channel: str
    """The channel whose rows the records become."""
    kind: PayloadKind
    body: bytes
    packing: Packing
    recv_ns: int
    path: str
    span: tuple[int, int]
    """The rows to keep, by their time: from the first moment on, up to the second; ns since 1970."""


class PageReceipt(NamedTuple):
    """What a page held. There is a staged file if it has rows."""

    rows: int
    page_token: str
    fault: str
    """Why the page as a whole is of no use; empty if it is."""
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
    """A Parquet file: what the store's log tells of it."""

    rows: int
    bytes: int
    first: dict[str, str | int]
    """The least symbol and time."""
    last: dict[str, str | int]
