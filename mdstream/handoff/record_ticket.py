"""Tickets and receipts of recording: which rows to store, and the result.

rows of a frame, in shared memory ══► worker: read ► sort ► compress ► one commit to its Delta table
"""

from __future__ import annotations

from typing import NamedTuple


class Lost(NamedTuple):
    """Rows of a frame, of those before a number, that its table does not have."""

    begin: int = 0
    """Number of the first row to record: a late recorder begins with the oldest that is kept."""
    missed: int = 0
    """Rows that the frame had dropped before they were read."""
    unstorable: int = 0
    """Rows that are in `<stream>.rejects` instead, because the table refuses them."""


class RecordTicket(NamedTuple):
    """Asks to store rows `first` to `past` of a frame in the Delta table at `table`.

    `table_past` is the number after the last recorded row when the table was last read. `run` is the run
    directory, `feed` the value of the partition column. `options` are those of the object store. With
    `divide`, rows that the table refuses become rejects; without, they fail the ticket.
    """

    run: str
    frame: str
    first: int
    past: int
    table_past: int
    table: str
    feed: str
    options: dict[str, str]
    divide: bool = False
    lost: Lost = Lost()
    """What the table lacks of the rows before `first`."""


class RecordReceipt(NamedTuple):
    """Result of a `RecordTicket`, or how far a table is recorded."""

    past: int
    """Number of the row after the last one in the table.

    It is before the ticket's first row if the table was removed or replaced.
    """
    rows: int
    """Rows that this ticket stored; none if an earlier attempt did."""
    lost: Lost
    """What the table lacks of the rows before `past`: a commit keeps it in the table."""
    reasons: tuple[str, ...] = ()
    """Row and reason of the first few that this ticket could not store."""


class CompactTicket(NamedTuple):
    """Asks to merge the small files of a Delta table to large ones.

    The small files are kept for `keep_hours`, for readers that have started.
    """

    table: str
    keep_hours: int
    options: dict[str, str]
