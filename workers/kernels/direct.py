"""The direct path: payloads of a slab to committed rows, in one call.

    slab ─► match ─► spans ─► values at the ends of frames ─► checks ─► null bits, partials ─┐
                                   (no reader sees them yet)                                 │
                    counters ◄─ bars ◄─ last values ◄─ rows are published, frame by frame ◄──┘

It handles batches in which everything is usual: payloads of the stream in known layouts, texts that have
codes, values in their usual form, room in every chunk. If anything is not, it returns `IRREGULAR` and the
batch takes the usual way (`workers.job`), which writes the same rows to the same places. Until all checks
have passed, only memory behind the last row changes, and no bit of it that the usual way does not set.

The kernels find their arrays in a book (`kernels.book`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.frames.head import APPLIED, PENDING, WORDS
from mdstream.frames.head import ROWS as ROWS_WORD
from mdstream.handoff.slab import ENTRY, HEADER_BYTES
from mdstream.streams.spec import Mark, PayloadKind
from workers.kernels import book as b
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
def _begin(book: Any, kind: int) -> bool:
    """Read the table of the slab; return whether all payloads are plain ones of `kind`, or ticks."""
    slab = raw(b.buffer(book))
    offsets, lengths, received = raw(b.offsets(book)), raw(b.lengths(book)), raw(b.received(book))
    verdicts, messages = raw(b.verdicts(book)), raw(b.messages(book))
    total, ticks = 0, 0
    for payload in range(book[b.PAYLOADS]):
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
            b.ticks(book)[ticks] = payload
            ticks += 1
        else:
            return False
    book[b.BYTES], book[b.TICKS] = total, ticks
    b.rows(book)[:] = 0
    b.before(book)[:] = 0
    at = b.at(book)
    at[:] = 0
    at[ops.AT_BYTE] = at[ops.AT_AFTER] = -1
    return True


@called
def _are_matched(book: Any) -> bool:
    """Return whether every payload was followed to its end, and all rows find room."""
    verdicts, channels = b.verdicts(book), b.channels(book)
    for payload in range(book[b.PAYLOADS]):
        if verdicts[payload] == ops.FELL_BACK:
            return False
    rows = b.rows(book)
    for number in range(len(rows)):
        count = rows[number]
        word = number * CHANNEL_WIDTH
        if count and (count > MOST_ROWS or count > channels[word + LEFT]):
            return False
    corrections, cancels = book[b.CORRECTIONS], book[b.CANCELS]
    return (corrections < 0 or not rows[corrections]) and (cancels < 0 or not rows[cancels])


@called
def _aim(book: Any, number: int) -> None:
    """Set the targets of a channel's columns: the ends of their buffers."""
    channels, columns, targets = b.channels(book), b.columns(book), b.targets(book)
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
    def decode(book: Any) -> bool:
        """Convert the values of all channels; return whether all are regular."""
        rows, channels, columns = b.rows(book), b.channels(book), b.columns(book)
        counts = b.counts(book)
        for number in range(len(rows)):
            count = rows[number]
            if not count:
                continue
            _aim(book, number)
            word = number * CHANNEL_WIDTH
            base, width = channels[word + BASE], channels[word + COLUMNS]
            convert(
                raw(b.buffer(book)),
                raw(b.spans(book)),
                book[b.ROOM],
                count,
                raw(b.row_payload(book)[number * book[b.ROOM] :]),
                raw(b.received(book)),
                raw(b.plans(book)[base * PLAN_WIDTH :]),
                width,
                raw(b.bytes_at(channels[word + ADDRESS], channels[word + SIZE])),
                0,
                raw(b.targets(book)[base * TARGETS_WIDTH :]),
                raw(b.scratch(book)[base * SCRATCH_ARRAYS * MOST_ROWS :]),
                raw(b.keys(book)),
                raw(b.slots(book)),
                len(b.slots(book)) - 1,
                raw(b.starts(book)),
                raw(b.sizes(book)),
                raw(b.owners(book)),
                raw(b.pool(book)),
                raw(b.codes(book)),
                raw(b.blanks(book)),
                raw(b.leftover(book)),
                raw(b.numbers(book)),
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
def _has_room(book: Any) -> bool:
    """Return whether the keyed frame has a row for every symbol; note how many rows it needs."""
    channels, rows = b.channels(book), b.rows(book)
    needed = np.int64(0)
    for number in range(len(rows)):
        if rows[number] and channels[number * CHANNEL_WIDTH + NEWEST_BY] >= 0:
            area, place = values_at(book, number, 0)
            symbols = as_uint32(area, place)
            for row in range(rows[number]):
                needed = max(needed, np.int64(symbols[row]) + 1)
    book[b.LATEST_ROWS] = needed
    return needed <= book[b.LATEST_ROOM]


@called
def _write_bits(book: Any) -> None:
    """Write null bits and booleans, which share bytes with rows of other batches; count the messages."""
    channels, columns, rows = b.channels(book), b.columns(book), b.rows(book)
    counts = b.counts(book)
    for number in range(len(rows)):
        count, word = rows[number], number * CHANNEL_WIDTH
        if not count:
            continue
        base, width, at = channels[word + BASE], channels[word + COLUMNS], channels[word + AT]
        area = raw(b.bytes_at(channels[word + ADDRESS], channels[word + SIZE]))
        nulls = np.int64(0)
        for column in range(width):
            place = (base + column) * COLUMN_WIDTH
            if columns[place + WIDTH] == 0:
                values, bits = bools_of(book, number, column), as_uint8(area, columns[place + VALUES])
                for row in range(count):
                    if values[row]:
                        bits[(at + row) >> 3] |= np.uint8(1 << ((at + row) & 7))
            if counts[(base + column) * COUNTS_WIDTH + plans.MISSING] and columns[place + VALIDITY] >= 0:
                nulls |= np.int64(1) << column
                mask = mask_of(book, number, column)
                bits = as_uint8(area, columns[place + VALIDITY])
                for row in range(count):
                    if not mask[row]:
                        bits[(at + row) >> 3] &= np.uint8(255 ^ (1 << ((at + row) & 7)))
        channels[word + NULLS] = nulls
    slab, messages = raw(b.buffer(book)), b.messages(book)
    total = np.int64(0)
    for payload in range(book[b.PAYLOADS]):
        entry = HEADER_BYTES + payload * _ENTRY_BYTES + ENTRY_MESSAGES
        as_uint32(slab, entry)[0] = messages[payload]
        total += messages[payload]
    book[b.MESSAGES] = total


@called
def _publish(book: Any) -> None:
    """Publish the rows of all channels, as `Head.publish`: a reader never sees a row before its values."""
    channels, rows, sequence = b.channels(book), b.rows(book), np.uint64(book[b.SEQUENCE])
    b.fence()
    for number in range(len(rows)):
        word = number * CHANNEL_WIDTH
        if not rows[number]:
            continue
        head = as_uint64(raw(b.bytes_at(channels[word + HEAD], _HEAD_BYTES)), 0)
        head[channels[word + NULLS_WORD]] |= np.uint64(channels[word + NULLS])
        total = np.uint64(channels[word + START] + channels[word + AT] + rows[number])
        head[PENDING] = total
        b.fence()  # the other way round, a kill in between would make the batch look applied
        head[APPLIED] = sequence
        b.fence()
        head[ROWS_WORD] = total


@called
def _finish(book: Any, out: Any) -> int:
    """Commit the batch if everything in it is usual."""
    if not _has_room(book) or not have_room(book) or not fold(book, out):
        return IRREGULAR
    _write_bits(book)
    _publish(book)
    update_latest(book)
    update_books(book)
    if join(book, out):
        return BARS
    count_batch(book)
    return COMMITTED


_decode_json = _make_decode(values_json.convert_raw)
_decode_msgpack = _make_decode(values_msgpack.convert_raw)


@called
def _follow_json(book: Any) -> bool:
    """Find the values of all payloads of a slab of JSON, and convert them; return whether all are usual."""
    if not _begin(book, _JSON):
        return False
    payloads = book[b.PAYLOADS]
    offsets, lengths, window = b.offsets(book)[:payloads], b.lengths(book)[:payloads], b.window(book)
    window[keys.NEXT] = window[keys.COUNT] = window[keys.CURSOR] = 0
    window[keys.LIMIT] = offsets[payloads - 1] + lengths[payloads - 1]
    why = match_json.match(
        b.buffer(book),
        offsets,
        lengths,
        b.verdicts(book),
        b.messages(book),
        b.words(book),
        b.steps(book),
        b.items(book),
        b.layouts(book),
        book[b.KNOWN],
        b.spans(book),
        book[b.ROOM],
        b.row_payload(book),
        b.row_message(book),
        b.rows(book),
        b.before(book),
        b.at(book),
        b.entries(book),
        window,
    )
    return why == ops.DONE and _are_matched(book) and _decode_json(book)


@called
def _follow_msgpack(book: Any) -> bool:
    """Find and convert the values of all payloads of a slab of msgpack, as `_follow_json`."""
    if not _begin(book, _MSGPACK):
        return False
    payloads = book[b.PAYLOADS]
    why = match_msgpack.match(
        b.buffer(book),
        b.offsets(book)[:payloads],
        b.lengths(book)[:payloads],
        b.verdicts(book),
        b.messages(book),
        b.words(book),
        b.steps(book),
        b.items(book),
        b.layouts(book),
        book[b.KNOWN],
        b.spans(book),
        book[b.ROOM],
        b.row_payload(book),
        b.row_message(book),
        b.rows(book),
        b.before(book),
        b.at(book),
    )
    return why == ops.DONE and _are_matched(book) and _decode_msgpack(book)


@called
def _start(book: Any, payload: Any, kind: int) -> bool:
    """Begin a batch: note the time, and put a payload that came alone into the slab."""
    if not book[b.PAYLOADS] or (b.logged(book)[0] + 1) * LOG_WIDTH > len(b.log(book)):
        return False
    book[b.CPU], book[b.START] = b.time_ns(book, b.THREAD_CPU), b.time_ns(book, b.MONOTONIC)
    if book[b.ALONE]:
        put(book, payload, kind)
    return True


@kernel
def commit_json(book: Any, out: Any, payload: Any) -> int:
    """Commit a batch of JSON; `out` takes its partials. Return `COMMITTED`, `BARS` or `IRREGULAR`.

    `payload` is empty, or one that came alone: then it is the batch.
    """
    if not _start(book, payload, _JSON):
        return IRREGULAR
    outcome = _finish(book, out) if _follow_json(book) else IRREGULAR
    return outcome if outcome != IRREGULAR else refuse(book, payload)


@kernel
def commit_msgpack(book: Any, out: Any, payload: Any) -> int:
    """Commit a batch of msgpack, as `commit_json`."""
    if not _start(book, payload, _MSGPACK):
        return IRREGULAR
    outcome = _finish(book, out) if _follow_msgpack(book) else IRREGULAR
    return outcome if outcome != IRREGULAR else refuse(book, payload)
