"""The simulator's traffic, which tests compute in advance, and the frames that it must produce."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

from mdstream.reading.attach import Attachment
from mdstream.simulator.traffic import generate
from mdstream.streams import STREAMS
from tests import expected
from tests.running import as_rows

SYMBOLS = {
    "stocks": ("AAPL", "IBM", "MSFT"),
    "options": ("AAPL261218C00200000", "SPY261218P00590000"),
    "crypto": ("BTC/USD", "ETH/USD"),
    "news": ("AAPL", "TSLA"),
    "perps": ("BTC-PERP", "ETH-PERP"),
}
CHANNELS = {name: tuple(c.name for c in spec.channels if c.types) for name, spec in STREAMS.items()}


def symbols(*streams: str) -> dict[str, dict[str, Any]]:
    """Return engine settings that follow only these symbols."""
    return {stream: {"symbols": list(SYMBOLS[stream])} for stream in streams}


@lru_cache(maxsize=8)
def messages(stream: str, count: int) -> tuple[dict[str, Any], ...]:
    """Return the first messages that the simulator sends at full speed, in order."""
    subscription = dict.fromkeys(STREAMS[stream].subscriptions, SYMBOLS[stream])
    return tuple(itertools.islice(generate(stream, 1, subscription), count))


@lru_cache(maxsize=8)
def rows(stream: str, count: int) -> dict[str, list[dict[str, Any]]]:
    """Return channel → the rows of the first `count` messages."""
    return expected.rows(stream, list(messages(stream, count)))


def row_count(stream: str, count: int) -> int:
    return sum(map(len, rows(stream, count).values()))


def committed_rows(run: Attachment, stream: str) -> int:
    return sum(run.rows(f"{stream}.{channel}") for channel in CHANNELS[stream])


def frames_of(run: Attachment, stream: str) -> dict[str, list[dict[str, Any]]]:
    """Return channel → rows in the frames, without empty frames."""
    found = {c: as_rows(run.frame(f"{stream}.{c}")) for c in CHANNELS[stream]}
    return {channel: found_rows for channel, found_rows in found.items() if found_rows}
