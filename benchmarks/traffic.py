"""Messages and pages for the benchmarks, from the seeded simulator or a recorded day."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TICKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "ticks" / "ibm-2013-10-07.csv.gz"
ROWS_A_PAGE = 10_000
"""The service's page limit."""


def messages(source: str, count: int) -> list[dict[str, Any]]:
    """Return the first trades and quotes of the simulator or the recorded day (`ibm-day`)."""
    from mdstream.simulator.traffic import generate, recorded_day

    if source == "ibm-day":
        found: Iterable[Any] = recorded_day("stocks", str(TICKS), {"trades": ["*"], "quotes": ["*"]})
    else:
        symbols = ["AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "AMD", "SPY", "QQQ"]
        found = generate("stocks", 1, {"trades": symbols, "quotes": symbols})
    return list(itertools.islice((m for m in found if m["T"] in "tq"), count))


def payloads(codec: str, found: Sequence[dict[str, Any]], per: int) -> list[bytes]:
    """Return the messages as WebSocket payloads of `per` messages."""
    from mdstream.simulator.encode import ENCODINGS

    form = ENCODINGS[codec]
    single = [form.message(m) for m in found]
    return [form.payload(single[i : i + per]) for i in range(0, len(single), per)]


def pages(count: int) -> list[bytes]:
    """Return the service's pages of historical stock trades: gzip'd JSON of `ROWS_A_PAGE` trades."""
    from mdstream.simulator.encode import to_json
    from mdstream.simulator.markets import MARKETS
    from mdstream.simulator.past_records import TRADES

    found = []
    for number in range(count):
        past, first = MARKETS["stocks"].past(1, f"S{number}"), 1_767_623_400 + number * ROWS_A_PAGE
        records = [TRADES.at(past, index) for index in range(first, first + ROWS_A_PAGE)]
        body = {"trades": {past.symbol: records}, "next_page_token": None}
        found.append(gzip.compress(to_json(body), 6))
    return found
