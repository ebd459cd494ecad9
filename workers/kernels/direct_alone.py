"""A payload that came alone, before and after the direct path: into the slab, and out of it again."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.handoff.slab import ENTRY, HEADER_BYTES, SEQUENCE_AT, SlabState
from workers.kernels import address_table as t
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
def put(table: Any, payload: Any, kind: int) -> None:
    """Put a payload that came alone into the slab, as `Slab.append` and `Slab.seal`, and count it."""
    table[t.SUBMITTED] = t.time_ns(table, t.WALL) + table[t.AHEAD]
    table[t.TO_WALL] = table[t.SUBMITTED] - table[t.START]
    slab, start, length = raw(t.buffer(table)), table[t.DATA], len(payload)
    for at in range(length):
        slab[start + at] = payload[at]
    as_int64(slab, HEADER_BYTES + ENTRY_OFFSET)[0] = start
    as_uint32(slab, HEADER_BYTES + ENTRY_LENGTH)[0] = np.uint32(length)
    as_uint16(slab, HEADER_BYTES + ENTRY_KIND)[0] = np.uint16(kind)
    as_uint16(slab, HEADER_BYTES + ENTRY_COMPRESSION)[0] = np.uint16(0)
    as_int64(slab, HEADER_BYTES + ENTRY_RECEIVED)[0] = table[t.ALONE]
    as_int64(slab, SEQUENCE_AT)[0] = table[t.SEQUENCE]
    set_state(table, _ONE_PAYLOAD)
    words, counters = t.state(table), t.counters(table)
    words[counters[PAYLOADS_RECEIVED]] += np.uint64(1)
    words[counters[BYTES_RECEIVED]] += np.uint64(length)


@called
def refuse(table: Any, payload: Any) -> int:
    """Take a payload that came alone back out of the slab; return `IRREGULAR`."""
    if table[t.ALONE]:
        words, counters = t.state(table), t.counters(table)
        words[counters[PAYLOADS_RECEIVED]] -= np.uint64(1)
        words[counters[BYTES_RECEIVED]] -= np.uint64(len(payload))
        set_state(table, FREE)
    return IRREGULAR
