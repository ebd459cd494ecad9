"""The direct path: payloads of a slab to committed rows, in one call.

    slab ─► match ─► spans ─► values at the ends of frames ─► checks ─► null bits, partials ─┐
                                   (no reader sees them yet)                                 │
                    counters ◄─ bars ◄─ last values ◄─ rows are published, frame by frame ◄──┘

It handles batches in which everything is usual: payloads of the stream in known layouts, texts that have
codes, values in their usual form, room in every chunk. If anything is not, it returns `IRREGULAR` and the
batch takes the usual way (`workers.job`), which writes the same rows to the same places. Until all checks
have passed, only memory behind the last row changes, and no bit of it that the usual way does not set.

The kernels find their arrays in an address table (`kernels.address_table`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.frames.head import APPLIED, PENDING, WORDS
from mdstream.frames.head import ROWS as ROWS_WORD
from mdstream.handoff.slab import ENTRY, HEADER_BYTES
from mdstream.streams.spec import Mark, PayloadKind
from workers.kernels import address_table as t
from workers.kernels import columns as plans
from workers.kernels import keys, match_json, match_msgpack, ops, values_json, values_msgpack
from workers.kernels.columns import COUNTS_WIDTH, PLAN_WIDTH, SCRATCH_ARRAYS, TARGETS_WIDTH
from workers.kernels.compiling import called, kernel
from workers.kernels.direct_alone import (
    ENTRY_COMPRESSION,
    ENTRY_KIND,
    ENTRY_LENGTH,
    ENTRY_MESSAGES,
    ENTRY_OFFSET,
    ENTRY_RECEIVED,
    IRREGULAR,
    put,
    refuse,
)
from workers.kernels.direct_bars import fold, join
from workers.kernels.direct_books import have_room, update_books
from workers.kernels.direct_count import LOG_WIDTH, count_batch
from workers.kernels.direct_latest import update_latest
from workers.kernels.direct_layout import (
    ADDRESS,
    AT,
    BASE,
    CHANNEL_WIDTH,
    COLUMN_WIDTH,
    COLUMNS,
    HEAD,
    LEFT,
    MOST_ROWS,
    NEEDED,
    NEWEST_BY,
    NULLS,
    NULLS_WORD,
    SIZE,
    START,
    VALIDITY,
    VALUES,
    WIDTH,
    bools_of,
    mask_of,
    values_at,
)
from workers.kernels.words import as_int64, as_uint8, as_uint16, as_uint32, as_uint64, raw

COMMITTED = 0
BARS = 1
"""Committed but for its bars, which the builder must finish before `direct_count.count`."""

_ENTRY_BYTES = ENTRY.itemsize
_HEAD_BYTES = 8 * WORDS
_JSON, _MSGPACK, _MARK = int(PayloadKind.JSON), int(PayloadKind.MSGPACK), int(PayloadKind.MARK)
_TICK = int.from_bytes(Mark.TICK.value, "little")


@called
def _begin(table: Any, kind: int) -> bool:
    """Read the table of the slab; return whether all payloads are plain ones of `kind`, or ticks."""
    slab = raw(t.buffer(table))
    offsets, lengths, received = raw(t.offsets(table)), raw(t.lengths(table)), raw(t.received(table))
    verdicts, messages = raw(t.verdicts(table)), raw(t.messages(table))
    total, ticks = 0, 0
    for payload in range(table[t.PAYLOADS]):
        entry = HEADER_BYTES + payload * _ENTRY_BYTES
        its_kind = as_uint16(slab, entry + ENTRY_KIND)[0]
        offsets[payload] = as_int64(slab, entry + ENTRY_OFFSET)[0]
        lengths[payload] = as_uint32(slab, entry + ENTRY_LENGTH)[0]
        received[payload] = as_int64(slab, entry + ENTRY_RECEIVED)[0]
        verdicts[payload] = ops.GOOD
        messages[payload] = 0
        if its_kind == kind and as_uint16(slab, entry + ENTRY_COMPRESSION)[0] == 0:
            total += lengths[payload]
        elif its_kind == _MARK and lengths[payload] == 4 and as_uint32(slab, offsets[payload])[0] == _TICK:
            verdicts[payload] = ops.OTHER
            t.ticks(table)[ticks] = payload
            ticks += 1
        else:
            return False
    table[t.BYTES], table[t.TICKS] = total, ticks
    t.rows(table)[:] = 0
    t.before(table)[:] = 0
    at = t.at(table)
    at[:] = 0
    at[ops.AT_BYTE] = at[ops.AT_AFTER] = -1
    return True


@called
def _are_matched(table: Any) -> bool:
    """Return whether every payload was followed to its end, and all rows find room."""
    verdicts, channels = t.verdicts(table), t.channels(table)
    for payload in range(table[t.PAYLOADS]):
        if verdicts[payload] == ops.FELL_BACK:
            return False
    rows = t.rows(table)
    for number in range(len(rows)):
        count = rows[number]
        word = number * CHANNEL_WIDTH
        if count and (count > MOST_ROWS or count > channels[word + LEFT]):
            return False
    corrections, cancels = table[t.CORRECTIONS], table[t.CANCELS]
    return (corrections < 0 or not rows[corrections]) and (cancels < 0 or not rows[cancels])


@called
def _aim(table: Any, number: int) -> None:
    """Set the targets of a channel's columns: the ends of their buffers."""
    channels, columns, targets = t.channels(table), t.columns(table), t.targets(table)
    word = number * CHANNEL_WIDTH
    base, at = channels[word + BASE], channels[word + AT]
    for column in range(base, base + channels[word + COLUMNS]):
        width = columns[column * COLUMN_WIDTH + WIDTH]
        values = columns[column * COLUMN_WIDTH + VALUES] + at * width
        targets[column * TARGETS_WIDTH] = values if width else plans.IN_SCRATCH
        targets[column * TARGETS_WIDTH + 1] = plans.IN_SCRATCH


def _make_decode(convert: Any) -> Any:
    """Return what follows a match, for one codec."""

    @called
    def decode(table: Any) -> bool:
        """Convert the values of all channels; return whether all are regular."""
        rows, channels, columns = t.rows(table), t.channels(table), t.columns(table)
        counts = t.counts(table)
        for number in range(len(rows)):
            count = rows[number]
            if not count:
                continue
            _aim(table, number)
            word = number * CHANNEL_WIDTH
            base, width = channels[word + BASE], channels[word + COLUMNS]
            convert(
                raw(t.buffer(table)),
                raw(t.spans(table)),
                table[t.ROOM],
                count,
                raw(t.row_payload(table)[number * table[t.ROOM] :]),
                raw(t.received(table)),
                raw(t.plans(table)[base * PLAN_WIDTH :]),
                width,
                raw(t.bytes_at(channels[word + ADDRESS], channels[word + SIZE])),
                0,
                raw(t.targets(table)[base * TARGETS_WIDTH :]),
                raw(t.scratch(table)[base * SCRATCH_ARRAYS * MOST_ROWS :]),
                raw(t.keys(table)),
                raw(t.slots(table)),
                len(t.slots(table)) - 1,
                raw(t.starts(table)),
                raw(t.sizes(table)),
                raw(t.owners(table)),
                raw(t.pool(table)),
                raw(t.codes(table)),
                raw(t.blanks(table)),
                raw(t.leftover(table)),
                raw(t.numbers(table)),
                raw(counts[base * COUNTS_WIDTH :]),
            )
            for column in range(base, base + width):
                found = column * COUNTS_WIDTH
                if counts[found + plans.LEFTOVER] or counts[found + plans.NEW_TEXTS]:
                    return False
                if counts[found + plans.MISSING] and columns[column * COLUMN_WIDTH + NEEDED]:
                    return False
        return True

    return decode


@called
def _has_room(table: Any) -> bool:
    """Return whether the keyed frame has a row for every symbol; note how many rows it needs."""
    channels, rows = t.channels(table), t.rows(table)
    needed = np.int64(0)
    for number in range(len(rows)):
        if rows[number] and channels[number * CHANNEL_WIDTH + NEWEST_BY] >= 0:
            area, place = values_at(table, number, 0)
            symbols = as_uint32(area, place)
            for row in range(rows[number]):
                needed = max(needed, np.int64(symbols[row]) + 1)
    table[t.LATEST_ROWS] = needed
    return needed <= table[t.LATEST_ROOM]


@called
def _write_bits(table: Any) -> None:
    """Write null bits and booleans, which share bytes with rows of other batches; count the messages."""
    channels, columns, rows = t.channels(table), t.columns(table), t.rows(table)
    counts = t.counts(table)
    for number in range(len(rows)):
        count, word = rows[number], number * CHANNEL_WIDTH
        if not count:
            continue
        base, width, at = channels[word + BASE], channels[word + COLUMNS], channels[word + AT]
        area = raw(t.bytes_at(channels[word + ADDRESS], channels[word + SIZE]))
        nulls = np.int64(0)
        for column in range(width):
            place = (base + column) * COLUMN_WIDTH
            if columns[place + WIDTH] == 0:
                values, bits = bools_of(table, number, column), as_uint8(area, columns[place + VALUES])
                for row in range(count):
                    if values[row]:
                        bits[(at + row) >> 3] |= np.uint8(1 << ((at + row) & 7))
            if counts[(base + column) * COUNTS_WIDTH + plans.MISSING] and columns[place + VALIDITY] >= 0:
                nulls |= np.int64(1) << column
                mask = mask_of(table, number, column)
                bits = as_uint8(area, columns[place + VALIDITY])
                for row in range(count):
                    if not mask[row]:
                        bits[(at + row) >> 3] &= np.uint8(255 ^ (1 << ((at + row) & 7)))
        channels[word + NULLS] = nulls
    slab, messages = raw(t.buffer(table)), t.messages(table)
    total = np.int64(0)
    for payload in range(table[t.PAYLOADS]):
        entry = HEADER_BYTES + payload * _ENTRY_BYTES + ENTRY_MESSAGES
        as_uint32(slab, entry)[0] = messages[payload]
        total += messages[payload]
    table[t.MESSAGES] = total


@called
def _publish(table: Any) -> None:
    """Publish the rows of all channels, as `Head.publish`: a reader never sees a row before its values."""
    channels, rows, sequence = t.channels(table), t.rows(table), np.uint64(table[t.SEQUENCE])
    t.fence()
    for number in range(len(rows)):
        word = number * CHANNEL_WIDTH
        if not rows[number]:
            continue
        head = as_uint64(raw(t.bytes_at(channels[word + HEAD], _HEAD_BYTES)), 0)
        head[channels[word + NULLS_WORD]] |= np.uint64(channels[word + NULLS])
        total = np.uint64(channels[word + START] + channels[word + AT] + rows[number])
        head[PENDING] = total
        t.fence()  # the other way round, a kill in between would make the batch look applied
        head[APPLIED] = sequence
        t.fence()
        head[ROWS_WORD] = total


@called
def _finish(table: Any, out: Any) -> int:
    """Commit the batch if everything in it is usual."""
    if not _has_room(table) or not have_room(table) or not fold(table, out):
        return IRREGULAR
    _write_bits(table)
    _publish(table)
    update_latest(table)
    update_books(table)
    if join(table, out):
        return BARS
    count_batch(table)
    return COMMITTED


_decode_json = _make_decode(values_json.convert_raw)
_decode_msgpack = _make_decode(values_msgpack.convert_raw)


@called
def _follow_json(table: Any) -> bool:
    """Find the values of all payloads of a slab of JSON, and convert them; return whether all are usual."""
    if not _begin(table, _JSON):
        return False
    payloads = table[t.PAYLOADS]
    offsets, lengths, window = t.offsets(table)[:payloads], t.lengths(table)[:payloads], t.window(table)
    window[keys.NEXT] = window[keys.COUNT] = window[keys.CURSOR] = 0
    window[keys.LIMIT] = offsets[payloads - 1] + lengths[payloads - 1]
    why = match_json.match(
        t.buffer(table),
        offsets,
        lengths,
        t.verdicts(table),
        t.messages(table),
        t.words(table),
        t.steps(table),
        t.items(table),
        t.layouts(table),
        table[t.KNOWN],
        t.spans(table),
        table[t.ROOM],
        t.row_payload(table),
        t.row_message(table),
        t.rows(table),
        t.before(table),
        t.at(table),
        t.entries(table),
        window,
    )
    return why == ops.DONE and _are_matched(table) and _decode_json(table)


@called
def _follow_msgpack(table: Any) -> bool:
    """Find and convert the values of all payloads of a slab of msgpack, as `_follow_json`."""
    if not _begin(table, _MSGPACK):
        return False
    payloads = table[t.PAYLOADS]
    why = match_msgpack.match(
        t.buffer(table),
        t.offsets(table)[:payloads],
        t.lengths(table)[:payloads],
        t.verdicts(table),
        t.messages(table),
        t.words(table),
        t.steps(table),
        t.items(table),
        t.layouts(table),
        table[t.KNOWN],
        t.spans(table),
        table[t.ROOM],
        t.row_payload(table),
        t.row_message(table),
        t.rows(table),
        t.before(table),
        t.at(table),
    )
    return why == ops.DONE and _are_matched(table) and _decode_msgpack(table)


@called
def _start(table: Any, payload: Any, kind: int) -> bool:
    """Begin a batch: note the time, and put a payload that came alone into the slab."""
    if not table[t.PAYLOADS] or (t.logged(table)[0] + 1) * LOG_WIDTH > len(t.log(table)):
        return False
    table[t.CPU], table[t.START] = t.time_ns(table, t.THREAD_CPU), t.time_ns(table, t.MONOTONIC)
    if table[t.ALONE]:
        put(table, payload, kind)
    return True


@kernel
def commit_json(table: Any, out: Any, payload: Any) -> int:
    """Commit a batch of JSON; `out` takes its partials. Return `COMMITTED`, `BARS` or `IRREGULAR`.

    `payload` is empty, or one that came alone: then it is the batch.
    """
    if not _start(table, payload, _JSON):
        return IRREGULAR
    outcome = _finish(table, out) if _follow_json(table) else IRREGULAR
    return outcome if outcome != IRREGULAR else refuse(table, payload)


@kernel
def commit_msgpack(table: Any, out: Any, payload: Any) -> int:
    """Commit a batch of msgpack, as `commit_json`."""
    if not _start(table, payload, _MSGPACK):
        return IRREGULAR
    outcome = _finish(table, out) if _follow_msgpack(table) else IRREGULAR
    return outcome if outcome != IRREGULAR else refuse(table, payload)
