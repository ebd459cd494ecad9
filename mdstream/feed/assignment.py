"""What a feed is started with. The supervisor makes it without loading the feed itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdstream.config import FeedConfig


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the supervisor gives a feed: its stream, its run, and its share of the request budget.

    `generation` counts the processes that have served this stream in this run, from 0.
    """

    stream: str
    run: Path
    run_id: str
    config: FeedConfig
    budget: int
    generation: int
