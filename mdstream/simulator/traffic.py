"""Messages in payloads for a connection: made up, or of a recorded day."""

from __future__ import annotations

import csv
import gzip
import itertools
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mdstream.errors import ConfigError
from mdstream.simulator.encode import Encoding
from mdstream.simulator.generator import Message
from mdstream.simulator.markets import MARKETS
from mdstream.simulator.minute_bars import BarServer

MOST_PREPARED = 50_000
"""Messages that are encoded beforehand, and repeated, if there is no rate."""

_PIECE_BYTES = 128 * 1024
START_NS = 1_767_623_400_000_000_000  # 2026-01-05T14:30:00Z, a Monday's open
_STEP_NS = 61_237

Subscription = Mapping[str, Sequence[str]]
"""Channel → symbols."""


@dataclass(slots=True)
class PayloadGroup:
    """WebSocket messages ready to be written, and their contents."""

    data: bytes = b""
    payloads: int = 0
    types: Counter[str] = field(default_factory=Counter)
    messages: list[Message] = field(default_factory=list)
    """The messages themselves, only if sent messages are logged."""

    @property
    def count(self) -> int:
        """The number of messages."""
        return self.types.total()


def pieces(
    messages: Iterator[Message], encoding: Encoding, per_payload: int, keep: bool
) -> Iterator[PayloadGroup]:
    """Yield `messages` in payloads of `per_payload`, in groups of some 128 kB."""
    piece, parts, size = PayloadGroup(), [], 0
    while batch := list(itertools.islice(messages, per_payload)):
        part = encoding.wrap(encoding.payload([encoding.message(m) for m in batch]))
        parts.append(part)
        size += len(part)
        piece.payloads += 1
        piece.types.update(m["T"] for m in batch)
        if keep:
            piece.messages += batch
        if size >= _PIECE_BYTES:
            piece.data = b"".join(parts)
            yield piece
            piece, parts, size = PayloadGroup(), [], 0
    if parts:
        piece.data = b"".join(parts)
        yield piece


def prepare(
    messages: Iterator[Message], limit: int, encoding: Encoding, per_payload: int, keep: bool
) -> list[PayloadGroup]:
    """Return the first `limit` messages, encoded."""
    return list(pieces(itertools.islice(messages, limit), encoding, per_payload, keep))


def generate(stream: str, seed: int, subscription: Subscription) -> Iterator[Message]:
    """Yield a market's messages with made-up times, the same in every call."""
    ticks = itertools.count(START_NS, _STEP_NS)
    return MARKETS[stream].generator(seed, subscription).messages(lambda: next(ticks))


def generate_live(stream: str, seed: int, subscription: Subscription) -> Iterator[Message]:
    """Yield a market's messages, each with the time at which it is made, and bars of its trades."""
    # Ids are unique across connections: none has a million messages a second.
    ids_from = time.time_ns() // 1_000
    market = MARKETS[stream]
    messages = market.generator(seed, subscription, ids_from).messages(time.time_ns)
    if not BarServer.serves(market.spec):
        return messages
    return BarServer(market.spec, subscription).add_bars(messages)


# -- a recorded day


def recorded_day(stream: str, path: str | Path, subscription: Subscription) -> Iterator[Message]:
    """Yield a real day's messages from a CSV file, and bars of its trades."""
    return BarServer(MARKETS[stream].spec, subscription).add_bars(_read_day(stream, path, subscription))


def _read_day(stream: str, path: str | Path, subscription: Subscription) -> Iterator[Message]:
    """Yield a real day's messages from a CSV file (gzip'd or not), in its order.

    The file's first line names the columns: `kind` (the type of message), `symbol`, and those that the
    market's `Ticks` name. Raises `ConfigError` if the file cannot be read.
    """
    spec, ticks = MARKETS[stream].spec, MARKETS[stream].ticks
    assert ticks is not None, "only such a market takes a recorded day"
    wanted = {
        kind: {s for name in spec.by_type[kind].subscriptions for s in subscription.get(name, ())}
        for kind in ticks.makers
    }
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if missing := {"kind", "symbol", *ticks.columns} - set(reader.fieldnames or ()):
                raise ConfigError(f"{path}: no columns {', '.join(sorted(missing))}")
            for number, row in enumerate(reader, 1):
                symbols = wanted.get(row["kind"], set())
                if "*" in symbols or row["symbol"] in symbols:
                    yield ticks.makers[row["kind"]](row, number)
    except (OSError, EOFError, ValueError, TypeError, csv.Error, zlib.error) as error:
        raise ConfigError(f"cannot read ticks from {path}: {error}") from error
