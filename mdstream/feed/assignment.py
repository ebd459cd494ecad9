"""The assignment of a feed. The supervisor makes it without loading the feed itself."""

from __future__ import annotations

from dataclasses import dataclass
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
