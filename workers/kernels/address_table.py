"""The address table of the direct path: one array with the addresses of all others.

Passing some fifty arrays to a kernel costs more than a small batch takes. So their addresses are written
once into an array, the table: two words for each, its address and its number of items.
`workers.direct_addresses` writes them, again whenever an array may have moved, and keeps the arrays alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from workers.kernels.bar_table import BAR, ROW
from workers.kernels.compiling import called, inlined
from workers.kernels.words import address_of

ARRAYS: dict[str, tuple[int, Any]] = {}
"""Name of an array → its first word in the table, and the type of its items."""


def _pointer_to(item: Any) -> Any:
    """Make an intrinsic that returns an address as a pointer to items."""

    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        signature = types.CPointer(item)(types.int64)  # type: ignore[attr-defined]

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


def _array(name: str, item: Any) -> Callable[[Any], Any]:
    """Add an array to the table; return the helper by which kernels get it from a table."""
    word = 2 * len(ARRAYS)
    ARRAYS[name] = word, item
    pointer = _pointer_to(numba.from_dtype(np.dtype(item)))

    @inlined
    def array(table: Any) -> Any:
        return numba.carray(pointer(table[word]), (table[word + 1],))

    return array


# What a matcher reads and writes (`decoding.matching`, `decoding.layouts`).
words = _array("words", np.uint64)
steps = _array("steps", np.int64)
items = _array("items", np.int64)
layouts = _array("layouts", np.int64)
entries = _array("entries", np.int64)
window = _array("window", np.int64)
spans = _array("spans", np.uint64)
row_payload = _array("row_payload", np.int32)
row_message = _array("row_message", np.int32)

# Texts and their codes (`decoding.texts`).
keys = _array("keys", np.uint64)
slots = _array("slots", np.int32)
starts = _array("starts", np.int64)
sizes = _array("sizes", np.int64)
owners = _array("owners", np.int64)
pool = _array("pool", np.uint8)
codes = _array("codes", np.int64)
blanks = _array("blanks", np.uint8)

# The slab, and what is known of each payload in it.
buffer = _array("buffer", np.uint8)
offsets = _array("offsets", np.int64)
lengths = _array("lengths", np.int64)
received = _array("received", np.int64)
verdicts = _array("verdicts", np.uint8)
messages = _array("messages", np.uint32)
at = _array("at", np.int64)
ticks = _array("ticks", np.int64)

# Channels and their columns (`kernels.direct`, `kernels.columns`).
rows = _array("rows", np.int64)
before = _array("before", np.int64)
channels = _array("channels", np.int64)
columns = _array("columns", np.int64)
plans = _array("plans", np.int64)
counts = _array("counts", np.int64)
targets = _array("targets", np.int64)
scratch = _array("scratch", np.uint8)
leftover = _array("leftover", np.int64)
numbers = _array("numbers", np.int64)

# Bars: the effects of trades by their codes, the columns of trades and of quotes, the events of a batch.
effects = _array("effects", np.uint8)
trade = _array("trade", np.int64)
quote = _array("quote", np.int64)
symbols = _array("symbols", np.uint32)
times = _array("times", np.int64)
prices = _array("prices", np.float64)
volumes = _array("volumes", np.float64)
kinds = _array("kinds", np.uint8)
receipts = _array("receipts", np.int64)

# Bars of up to two lengths (`kernels.bar_table`): words of each (`kernels.direct_bars`), and its arrays.
intervals = _array("intervals", np.int64)
bars = tuple(_array(f"bars{n}", BAR) for n in range(2))
bar_slots = tuple(_array(f"bar_slots{n}", np.int32) for n in range(2))
changed_bars = tuple(_array(f"changed_bars{n}", np.int32) for n in range(2))
gaps = tuple(_array(f"gaps{n}", np.int64) for n in range(2))
bar_heads = tuple(_array(f"bar_heads{n}", np.int64) for n in range(2))
bar_rows = tuple(_array(f"bar_rows{n}", ROW) for n in range(2))

# Hash tables from symbols to numbers, and the newest rows of a batch.
places = _array("places", np.int64)
whose = _array("whose", np.int64)
newest = _array("newest", np.int64)

# Last values of symbols (`kernels.direct_latest`).
aspects = _array("aspects", np.int64)
moves = _array("moves", np.int64)
latest = _array("latest", np.uint8)
present = _array("present", np.uint8)
latest_head = _array("latest_head", np.uint64)

# Order books (`kernels.ladder`), and the frame of their best levels (`kernels.direct_books`).
level = _array("level", np.int64)
side_codes = _array("side_codes", np.int64)
valid = _array("valid", np.uint8)
asks = _array("asks", np.uint8)
sides = _array("sides", np.int64)
edges = _array("edges", np.float64)
complete = _array("complete", np.uint8)
totals = _array("totals", np.int64)
level_prices = _array("level_prices", np.float64)
level_sizes = _array("level_sizes", np.float64)
shown = _array("shown", np.uint8)
shown_columns = _array("shown_columns", np.int64)
shown_present = _array("shown_present", np.uint8)
shown_head = _array("shown_head", np.uint64)

# Counters and histograms (`telemetry.state`).
state = _array("state", np.uint64)
clock = _array("clock", np.int64)
counters = _array("counters", np.int64)
latency = _array("latency", np.uint64)
delay = _array("delay", np.uint64)
log = _array("log", np.int64)
logged = _array("logged", np.int64)

_FIRST = 2 * len(ARRAYS)
KNOWN, ROOM, PAYLOADS, BYTES, MESSAGES, PARTIALS, TO_WALL, SEQUENCE, JOINED = range(_FIRST, _FIRST + 9)
"""Known layouts; rows that spans have room for; payloads of the batch, and, as results, their bytes and
messages, and the partials; what the wall clock is ahead of the monotonic one; the batch's sequence; as a
result, how many partials were joined to the bars of each length (two words).
"""
TRADES, MIDPOINTS, CORRECTIONS, CANCELS = range(_FIRST + 10, _FIRST + 14)
"""Channels that bars are made of, by number; -1 if there is none."""
ASPECTS, LATEST_ROOM, LATEST_ROWS, VERSIONS = range(_FIRST + 14, _FIRST + 18)
"""Number of aspects; rows of the keyed frame, and, as a result, the rows that it needs; the byte in it at
which the versions of rows begin.
"""
START, END, TICKS = range(_FIRST + 18, _FIRST + 21)
"""Results: when the batch began, and when it was committed, on the monotonic clock (ns); how many of its
payloads are ticks.
"""
SUBMITTED, CPU, PID = range(_FIRST + 21, _FIRST + 24)
"""When the batch was submitted, by the wall clock (ns); as a result, the CPU time that it took (ns), before
that the CPU time at its start; the id of this process.
"""
DATA, ALONE, AHEAD = range(_FIRST + 24, _FIRST + 27)
"""Where payloads begin in the slab; when a payload that came alone was received (ns), 0 if none did; what
the clock of receive times is ahead of the wall clock (ns).
"""
BOOKS, SHOWN_ROOM, SHOWN_VERSIONS = range(_FIRST + 27, _FIRST + 30)
"""The channel of changes of order books, by number; -1 if there is none; rows of the frame of their best
levels; the byte in it at which the versions of rows begin.
"""
WORDS = _FIRST + 30
"""Words of an address table."""

_as_bytes = _pointer_to(types.uint8)


@inlined
def bytes_at(address: int, count: int) -> Any:
    """Return `count` bytes at an address as an array."""
    return numba.carray(_as_bytes(address), (count,))


@intrinsic
def fence(context: Any) -> Any:
    """Keep the stores before it ahead of those after it, which LLVM and some processors reorder."""
    signature = types.void()

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("release")
        return context.get_dummy_value()

    return signature, generate


_clock_gettime: Any = types.ExternalFunction(
    "clock_gettime",
    types.int32(types.int32, types.CPointer(types.int64)),  # type: ignore[attr-defined]
)
WALL, MONOTONIC, THREAD_CPU = 0, 1, 3
"""Numbers of clocks."""


@called
def time_ns(table: Any, which: int) -> int:
    """Return the time of a clock (ns)."""
    found = clock(table)
    _clock_gettime(np.int32(which), address_of(found))
    return found[0] * 1_000_000_000 + found[1]
