"""What the supervisor needs to start a feed, without loading the feed itself."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from mdstream.config import FeedConfig


@dataclass(frozen=True, slots=True)
class Assignment:
    """A feed's stream, its run, and its share of the request budget.

    `generation` is the number of earlier processes that served this stream in this run.
    """

    stream: str
    run: Path
    run_id: str
    config: FeedConfig
    budget: int
    generation: int


def run_feed(assignment: Assignment, pipe: Connection) -> None:
    """Be the feed's process."""
    from mdstream.feed.process import main

    main(assignment, pipe)
