"""Records of the simulator in a range, computed directly, without HTTP and pages."""

from __future__ import annotations

from typing import Any

from mdstream.simulator.markets import MARKETS
from mdstream.simulator.past_records import QUOTES, TRADES, bar_series


def records(
    stream: str, what: str, symbol: str, first: int, past: int, timeframe: str = ""
) -> list[dict[str, Any]]:
    """Return all records of a symbol with first <= t < past, by time."""
    series = {"trades": TRADES, "quotes": QUOTES}.get(what) or bar_series(timeframe)
    assert series is not None
    history = MARKETS[stream].past(1, symbol)
    every = range(first // series.step - 1, past // series.step + 1)
    found = (series.at(history, index) for index in every)
    return [record for record in found if first <= record["t"] < past]
