"""What crosses the process boundary where frames are recorded: which rows, and what became of them.

rows of a frame, in shared memory ══► worker: read ► sort ► compress ► one commit to the frame's Delta table
"""

from __future__ import annotations

from typing import NamedTuple


class RecordTicket(NamedTuple):
    """Rows `first` to `past` of a frame, for the Delta table at `table`, which has `told` that those up to
    there are recorded.

    `run` is the run directory, `feed` the stream's feed, which the table is partitioned by. `options` are
    those of the object store.
    """

    run: str
    frame: str
    first: int
    past: int
    told: int
    table: str
    feed: str
    options: dict[str, str]


class RecordReceipt(NamedTuple):
    """What is in the table now."""

    past: int
    """The row behind the last one that is recorded; before the ticket's first where the table was removed
    or replaced, and tells of less than it did.
    """
    rows: int
    """Rows that this ticket brought; none if an earlier attempt had."""
    missed: int
    """Rows that the frame had dropped before they were read."""
    unstorable: int = 0
    """Rows with a value that the table cannot hold: they were left out, and block nothing."""
    reasons: tuple[str, ...] = ()
    """Row, column and value of the first few of them."""


class CompactTicket(NamedTuple):
    """A Delta table whose small files shall become large ones. What they were is kept for `keep_hours`, for
    readers that have begun.
    """

    table: str
    keep_hours: int
    options: dict[str, str]
