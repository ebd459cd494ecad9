"""The end of the direct path: all counters of a batch, which change at once (`telemetry.state`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.handoff.slab import STATE_AT, SlabState
from mdstream.telemetry.histogram import BELOW_BITS, BIAS
from mdstream.telemetry.schema import BATCHES as LOGGED
from workers.kernels import address_table as t
from workers.kernels import bar_table, ops
from workers.kernels.compiling import called, inlined, kernel
from workers.kernels.direct_layout import AT, CHANNEL_WIDTH, EVENT_TIME, LEFT, RECEIVED, START, values_at
from workers.kernels.words import as_int64, as_uint64, raw

# Words of `address_table.counters`.
COPIES, COMMITTED = 0, 1
"""The first word of the two copies, and the words of each."""
SEQUENCE = 2
"""The word that selects the copy."""
PAYLOADS, BYTES, MESSAGES, BATCHES = 3, 4, 5, 6
"""Places of counters in a copy."""
PAYLOADS_RECEIVED, BYTES_RECEIVED = 7, 8
"""Words of what was received."""
LATE, LATE_BEFORE = 9, 10
"""The word of the trades that came too late for any bar, and their number before this process."""
LENGTHS = 11
"""From here on: pairs of a place in a copy and the number of the channel whose rows it has."""


LOG_WIDTH = len(LOGGED.columns)
"""Columns of `telemetry.batches`."""
FREE = int(SlabState.FREE)

_longest_bars = t.bar_heads[-1]


@inlined
def _bucket(nanoseconds: int) -> int:
    """Return the bucket of a duration, as `telemetry.histogram.bucket_of`."""
    return (np.float64(max(nanoseconds, 1)).view(np.int64) >> BELOW_BITS) - BIAS


@called
def _count_delays(table: Any, number: int) -> None:
    """Add the delays of a channel's rows to their histogram."""
    channels, delays = t.channels(table), t.delay(table)
    word = number * CHANNEL_WIDTH
    area, time = values_at(table, number, channels[word + EVENT_TIME])
    _, receipt = values_at(table, number, channels[word + RECEIVED])
    times, receipts = as_int64(area, time), as_int64(area, receipt)
    for row in range(t.rows(table)[number]):
        delays[_bucket(receipts[row] - times[row])] += np.uint64(1)


@inlined
def set_state(table: Any, state: int) -> None:
    """Write the state of the slab and the number of its payloads, after all stores before it."""
    t.fence()
    as_uint64(raw(t.buffer(table)), STATE_AT)[0] = np.uint64(state)


@called
def _log(table: Any) -> None:
    """Add a row to `telemetry.batches`."""
    rows, logged, received, lengths = t.log(table), t.logged(table), t.received(table), t.lengths(table)
    row = logged[0] * LOG_WIDTH
    used = np.int64(0)
    for payload in range(table[t.PAYLOADS]):
        used += lengths[payload]
    rows[row] = table[t.SEQUENCE]
    rows[row + 1] = table[t.PID]
    rows[row + 2] = table[t.PAYLOADS] - table[t.TICKS]
    rows[row + 3] = used
    rows[row + 4] = table[t.MESSAGES]
    rows[row + 5] = 0  # rejected
    rows[row + 6] = 0  # fell back
    rows[row + 7] = received[0]
    rows[row + 8] = received[table[t.PAYLOADS] - 1]
    rows[row + 9] = table[t.SUBMITTED]
    rows[row + 10] = table[t.START] + table[t.TO_WALL]
    rows[row + 11] = table[t.END] + table[t.TO_WALL]
    rows[row + 12] = table[t.END] + table[t.TO_WALL]
    rows[row + 13] = table[t.CPU]
    logged[0] += 1


@called
def count_batch(table: Any) -> None:
    """Count the batch as committed, and move on to the rows after it."""
    channels, rows = t.channels(table), t.rows(table)
    for number in range(len(rows)):
        word = number * CHANNEL_WIDTH
        if rows[number]:
            if channels[word + EVENT_TIME] >= 0:
                _count_delays(table, number)
            channels[word + AT] += rows[number]
            channels[word + LEFT] -= rows[number]
    table[t.END] = t.time_ns(table, t.MONOTONIC)
    now = table[t.END] + table[t.TO_WALL]
    ages, received, messages = t.latency(table), t.received(table), t.messages(table)
    verdicts = t.verdicts(table)
    for payload in range(table[t.PAYLOADS]):
        if verdicts[payload] != ops.GOOD:
            continue
        ages[_bucket(now - received[payload])] += np.uint64(messages[payload])

    words, counters = t.state(table), t.counters(table)
    longest = _longest_bars(table)
    if len(longest):
        words[counters[LATE]] = np.uint64(counters[LATE_BEFORE] + longest[bar_table.LATE])
    size, sequence = counters[COMMITTED], table[t.SEQUENCE]
    before = counters[COPIES] + np.int64(words[counters[SEQUENCE]] & np.uint64(1)) * size
    after = counters[COPIES] + (sequence & 1) * size
    for place in range(size):
        words[after + place] = words[before + place]
    words[after + counters[PAYLOADS]] += np.uint64(table[t.PAYLOADS] - table[t.TICKS])
    words[after + counters[BYTES]] += np.uint64(table[t.BYTES])
    words[after + counters[MESSAGES]] += np.uint64(table[t.MESSAGES])
    words[after + counters[BATCHES]] += np.uint64(1)
    for pair in range(LENGTHS, len(counters), 2):
        word = counters[pair + 1] * CHANNEL_WIDTH
        words[after + counters[pair]] = np.uint64(channels[word + START] + channels[word + AT])
    t.fence()
    words[counters[SEQUENCE]] = np.uint64(sequence)
    table[t.CPU] = t.time_ns(table, t.THREAD_CPU) - table[t.CPU]
    if table[t.PAYLOADS] > table[t.TICKS]:
        _log(table)
    if table[t.ALONE]:
        set_state(table, FREE)


@kernel
def count(table: Any) -> None:
    """Count a batch whose bars the builder has finished."""
    if table[t.PAYLOADS]:
        count_batch(table)
