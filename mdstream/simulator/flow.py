"""What a connection is sent: messages in frames, at a rate, flat out, or as a recorded day."""

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
from mdstream.simulator.encode import Encoding, Time
from mdstream.simulator.market import Market, Message
from mdstream.simulator.minute_bars import BarServer
from mdstream.streams import STREAMS

TAPE_MESSAGES = 50_000
"""Messages encoded beforehand for an endless flow flat out; they repeat."""

_CHUNK_BYTES = 128 * 1024
START_NS = 1_767_623_400_000_000_000  # 2026-01-05T14:30:00Z, a Monday's open
_STEP_NS = 61_237

Subscription = Mapping[str, Sequence[str]]


@dataclass(slots=True)
class Chunk:
    """WebSocket frames, ready to be written, and what is in them."""

    data: bytes = b""
    frames: int = 0
    types: Counter[str] = field(default_factory=Counter)
    messages: list[Message] = field(default_factory=list)
    """The messages themselves, only where a journal is kept."""

    @property
    def count(self) -> int:
        return self.types.total()


def chunks(messages: Iterator[Message], encoding: Encoding, per_frame: int, keep: bool) -> Iterator[Chunk]:
    """`messages` in frames of `per_frame`, some 128 kB of them at a time."""
    chunk, parts, size = Chunk(), [], 0
    while batch := list(itertools.islice(messages, per_frame)):
        frame = encoding.frame(encoding.payload([encoding.message(m) for m in batch]))
        parts.append(frame)
        size += len(frame)
        chunk.frames += 1
        chunk.types.update(m["T"] for m in batch)
        if keep:
            chunk.messages += batch
        if size >= _CHUNK_BYTES:
            chunk.data = b"".join(parts)
            yield chunk
            chunk, parts, size = Chunk(), [], 0
    if parts:
        chunk.data = b"".join(parts)
        yield chunk


def generated(stream: str, seed: int, subscription: Subscription) -> Iterator[Message]:
    """The market's messages with made-up times, the same at every call."""
    ticks = itertools.count(START_NS, _STEP_NS)
    return Market(stream, seed, subscription).messages(lambda: next(ticks))


def live(stream: str, seed: int, subscription: Subscription) -> Iterator[Message]:
    """The market's messages, each with the time at which it is made, and bars of its trades."""
    # Numbers are not used twice, also by the next connection: none has a million a second.
    ids_from = time.time_ns() // 1_000
    messages = Market(stream, seed, subscription, ids_from).messages(time.time_ns)
    if "bars" not in STREAMS[stream].subscriptions:
        return messages
    return BarServer(stream, subscription).added(messages)


def tape(
    messages: Iterator[Message], limit: int, encoding: Encoding, per_frame: int, keep: bool
) -> list[Chunk]:
    """The first `limit` messages, encoded beforehand."""
    return list(chunks(itertools.islice(messages, limit), encoding, per_frame, keep))


_COLUMNS = {"kind", "symbol", "ns", "price", "size", "exchange"} | {
    f"{side}_{what}" for side in ("bid", "ask") for what in ("price", "size", "exchange")
}


def recorded(path: str | Path, subscription: Subscription) -> Iterator[Message]:
    """A real day's trades and quotes from a CSV file (`read`), and bars of its trades."""
    return BarServer("stocks", subscription).added(read(path, subscription))


def read(path: str | Path, subscription: Subscription) -> Iterator[Message]:
    """A real day's trades and quotes from a CSV file (gzip'd or not), in its order.

    The columns are named in the file's first line: kind (t or q), symbol, ns (nanoseconds UTC), then
    the fields of a trade and of a quote.
    """
    wanted = {"t": set(subscription.get("trades", ())), "q": set(subscription.get("quotes", ()))}
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if missing := _COLUMNS - set(reader.fieldnames or ()):
                raise ConfigError(f"{path}: no columns {', '.join(sorted(missing))}")
            for number, row in enumerate(reader, 1):
                symbols = wanted.get(row["kind"], set())
                if "*" in symbols or row["symbol"] in symbols:
                    yield _message(row, number)
    except (OSError, EOFError, ValueError, TypeError, csv.Error, zlib.error) as error:
        raise ConfigError(f"cannot read ticks from {path}: {error}") from error


def _message(row: Mapping[str, str], number: int) -> Message:
    at = Time(int(row["ns"]))
    if row["kind"] == "t":
        return {
            "T": "t",
            "S": row["symbol"],
            "i": number,
            "x": row["exchange"],
            "p": float(row["price"]),
            "s": int(row["size"]),
            "c": [" "],
            "z": "A",
            "t": at,
        }
    return {
        "T": "q",
        "S": row["symbol"],
        "bx": row["bid_exchange"],
        "bp": float(row["bid_price"]),
        "bs": int(row["bid_size"]),
        "ax": row["ask_exchange"],
        "ap": float(row["ask_price"]),
        "as": int(row["ask_size"]),
        "c": ["R"],
        "z": "A",
        "t": at,
    }
