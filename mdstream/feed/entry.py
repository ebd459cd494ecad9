"""The function that a feed's process is started with. Naming it does not load the feed."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdstream.feed.assignment import Assignment


def run_feed(assignment: Assignment, pipe: Connection) -> None:
    """Be the feed's process."""
    from mdstream.feed.process import main

    main(assignment, pipe)
