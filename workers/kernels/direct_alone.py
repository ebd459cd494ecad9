"""A payload that came alone, before and after the direct path: into the slab, and out of it again."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.handoff.slab import ENTRY, HEADER_BYTES, SEQUENCE_AT, SlabState
from workers.kernels import book as b
from workers.kernels.compiling import called
from workers.kernels.direct_count import BYTES_RECEIVED, FREE, PAYLOADS_RECEIVED, set_state
from workers.kernels.words import as_int64, as_uint16, as_uint32, raw

IRREGULAR = -1
"""Result of a batch that must take the usual way."""

ENTRY_OFFSET, ENTRY_LENGTH, ENTRY_KIND, ENTRY_COMPRESSION, ENTRY_RECEIVED, ENTRY_MESSAGES = (
    ENTRY.fields[name][1]  # type: ignore[index]
    for name in ("offset", "length", "kind", "compression", "recv_ns", "messages")
)
"""Places of the values of a payload's entry in the table of a slab."""
_ONE_PAYLOAD = int(SlabState.SEALED) | 1 << 8


@called
def put(book: Any, payload: Any, kind: int) -> None:
    """Put a payload that came alone into the slab, as `Slab.append` and `Slab.seal`, and count it."""
    book[b.SUBMITTED] = b.time_ns(book, b.WALL) + book[b.AHEAD]
    book[b.TO_WALL] = book[b.SUBMITTED] - book[b.START]
    slab, start, length = raw(b.buffer(book)), book[b.DATA], len(payload)
    for at in range(length):
        slab[start + at] = payload[at]
    as_int64(slab, HEADER_BYTES + ENTRY_OFFSET)[0] = start
    as_uint32(slab, HEADER_BYTES + ENTRY_LENGTH)[0] = np.uint32(length)
    as_uint16(slab, HEADER_BYTES + ENTRY_KIND)[0] = np.uint16(kind)
    as_uint16(slab, HEADER_BYTES + ENTRY_COMPRESSION)[0] = np.uint16(0)
    as_int64(slab, HEADER_BYTES + ENTRY_RECEIVED)[0] = book[b.ALONE]
    as_int64(slab, SEQUENCE_AT)[0] = book[b.SEQUENCE]
    set_state(book, _ONE_PAYLOAD)
    words, counters = b.state(book), b.counters(book)
    words[counters[PAYLOADS_RECEIVED]] += np.uint64(1)
    words[counters[BYTES_RECEIVED]] += np.uint64(length)


@called
def refuse(book: Any, payload: Any) -> int:
    """Take a payload that came alone back out of the slab; return `IRREGULAR`."""
    if book[b.ALONE]:
        words, counters = b.state(book), b.counters(book)
        words[counters[PAYLOADS_RECEIVED]] -= np.uint64(1)
        words[counters[BYTES_RECEIVED]] -= np.uint64(len(payload))
        set_state(book, FREE)
    return IRREGULAR
