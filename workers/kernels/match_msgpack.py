"""Pass 1 for msgpack: find the values of every message by the layouts learned so far.

As in JSON, messages of a type are identical except for their values. Here the first bytes of each value
give its length.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels import ops
from workers.kernels.compiling import called, inlined, kernel
from workers.kernels.fit import NO_FIT, NO_ROOM, literal_fits, make_fit
from workers.kernels.words import MASKS, load64, raw, reversed_bytes

_SIZES = np.zeros(256, np.int64)
"""Bytes of a value by its first byte; 0 where more bytes decide, -1 where the byte is unknown."""
_SIZES[:0x80] = _SIZES[0xE0:] = 1
_SIZES[0x80:0xA0] = -1  # maps; arrays are counted apart
_SIZES[0xA0:0xC0] = np.arange(1, 33)
_SIZES[[0xC0, 0xC2, 0xC3]] = 1
_SIZES[[0xCA, 0xCE, 0xD2]] = 5
_SIZES[[0xCB, 0xCF, 0xD3]] = 9
_SIZES[[0xCC, 0xD0]] = 2
_SIZES[[0xCD, 0xD1]] = 3
_SIZES[[0xD4, 0xD5, 0xD6, 0xD7, 0xD8]] = [3, 4, 6, 10, 18]
_SIZES[[0xC1, 0xC6, 0xC8, 0xC9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF]] = -1


@inlined
def _scalar(buffer: Any, i: int) -> int:
    """Return the bytes of the value at `i` if it is neither an array nor a map; otherwise -1."""
    first = buffer[i]
    size = _SIZES[first]
    if size != 0:
        return size
    length = np.int64(buffer[i + 1])
    if first == 0xC4 or first == 0xD9:  # bin8, str8
        return 2 + length
    if first == 0xC7:  # ext8
        return 3 + length
    return 3 + (length << 8 | np.int64(buffer[i + 2]))  # bin16, str16


@inlined
def _count(buffer: Any, i: int) -> tuple[int, int]:
    """Return the number of items of the array at `i` (-1: not an array), and where they begin."""
    first = buffer[i]
    if first & 0xF0 == 0x90:
        return np.int64(first & 0x0F), i + 1
    if first == 0xDC:
        return np.int64(buffer[i + 1]) << 8 | np.int64(buffer[i + 2]), i + 3
    if first == 0xDD:
        count = np.int64(0)
        for k in range(4):
            count = count << 8 | np.int64(buffer[i + 1 + k])
        return count, i + 5
    return np.int64(-1), i


@inlined
def _value(buffer: Any, i: int, end: int) -> int:
    """Return where the value at `i` ends, which may be an array of plain values; negative if unknown."""
    size = _scalar(buffer, i)
    if size > 0:
        return i + size
    count, i = _count(buffer, i)
    if count < 0:
        return NO_FIT
    while count > 0:
        if i >= end:
            return NO_FIT
        size = _scalar(buffer, i)
        if size < 0:
            return NO_FIT
        i += size
        count -= 1
    return i


@inlined
def _is_sound(buffer: Any, i: int, stop: int) -> bool:
    """Return whether the value at `i`, neither array nor map, is one that any reader accepts."""
    first = buffer[i]
    if first < 0x80 or first >= 0xE0 or first == 0xC0 or first == 0xC2 or first == 0xC3:
        return True
    if 0xCA <= first <= 0xD3 or first == 0xC4 or first == 0xC5:  # numbers, bytes
        return True
    if 0xA0 <= first < 0xC0 or first == 0xD9 or first == 0xDA:
        i += 1
        if first >= 0xD9:
            i += np.int64(first) - 0xD8
        while i < stop:
            if buffer[i] >= 0x80:
                return False
            i += 1
        return True
    kind = buffer[i + 2] if first == 0xC7 else buffer[i + 1]
    if 0xD4 <= first <= 0xD8 or first == 0xC7:
        if kind < 0x80:
            return True
        head = load64(buffer, i)  # otherwise only timestamps with less than a second of nanoseconds
        if head & MASKS[2] == 0xFFD6:
            return True
        if head & MASKS[2] == 0xFFD7:
            return reversed_bytes(load64(buffer, i + 2)) >> np.uint64(34) < 1_000_000_000
        if head & MASKS[3] == 0xFF0CC7:
            return reversed_bytes(load64(buffer, i + 3)) >> np.uint64(32) < 1_000_000_000
    return False


@inlined
def _may_skip(buffer: Any, i: int, stop: int) -> bool:
    """Return whether an unwanted value, possibly an array of plain ones, is one that any reader accepts."""
    count, inside = _count(buffer, i)
    if count < 0:
        return _is_sound(buffer, i, stop)
    i = inside
    while i < stop:
        size = _scalar(buffer, i)
        if size < 0 or not _is_sound(buffer, i, i + size):
            return False
        i += size
    return True


@called
def _levels(
    buffer: Any,
    i: int,
    end: int,
    words: Any,
    items: Any,
    item: int,
    spans: Any,
    room: int,
    slot: int,
    row: int,
    side: int,
) -> tuple[int, int]:
    """Return where the levels of one side of a book end, and the next row; negative as in `follow`."""
    count, i = _count(buffer, i)
    if count < 0:
        return NO_FIT, row
    while count > 0:
        if row >= room:
            return NO_ROOM, row
        for part in range(2):
            if i >= end or not literal_fits(
                buffer, i, end, words, items[item + 4 * part + 0], items[item + 4 * part + 1]
            ):
                return NO_FIT, row
            i += items[item + 4 * part + 1]
            size = _scalar(buffer, i)
            if size < 0:
                return NO_FIT, row
            spans[items[item + 4 * part + 2] * room + row] = np.uint64(i) | np.uint64(size) << np.uint64(32)
            i += size
        spans[slot * room + row] = np.uint64(side)
        row += 1
        count -= 1
    return i, row


@called
def follow(
    buffer: Any,
    i: int,
    end: int,
    words: Any,
    steps: Any,
    items: Any,
    step: int,
    spans: Any,
    room: int,
    row: int,
    guess: bool,
) -> tuple[int, int]:
    """Follow a layout through one message from byte `i`; return where it ends, and the next row.

    A negative end is `NO_FIT`, or `NO_ROOM` for the rows of a book.
    """
    first = step
    top = row
    while True:
        length = steps[step + ops.LENGTH]
        if not literal_fits(buffer, i, end, words, steps[step + ops.LITERAL], length):
            return NO_FIT, row
        i += length
        action = steps[step + ops.ACTION]
        slot = steps[step + ops.SLOT]
        if action == ops.VALUE:
            start = i
            i = _value(buffer, i, end)
            if i < 0:
                return NO_FIT, row
            spans[slot * room + row] = np.uint64(start) | np.uint64(i - start) << np.uint64(32)
        elif action == ops.HERE:
            length = steps[step + ops.ARGUMENT]
            spans[slot * room + row] = np.uint64(i) | np.uint64(length) << np.uint64(32)
        elif action == ops.MISSING:
            spans[slot * room + row] = np.uint64(0)
        elif action == ops.SKIP_VALUE:
            start = i
            i = _value(buffer, i, end)
            if i < 0 or i > end or not _may_skip(buffer, start, i):
                return NO_FIT, row
        elif action == ops.LEVELS:
            argument = steps[step + ops.ARGUMENT]
            i, top = _levels(
                buffer,
                i,
                end,
                words,
                items,
                (argument >> 8) * ops.ITEM_WIDTH,
                spans,
                room,
                slot,
                top,
                argument & 255,
            )
            if i < 0:
                return i, row
        elif action == ops.SOME:
            if top == row:
                return NO_FIT, row
        else:  # END
            if top == row:
                return i, row + 1
            while first < step:  # a book: the message's own values hold for each level
                slot = steps[first + ops.SLOT]
                if steps[first + ops.ACTION] != ops.LEVELS and slot >= 0:
                    for below in range(row + 1, top):
                        spans[slot * room + below] = spans[slot * room + row]
                first += ops.STEP_WIDTH
            return i, top
        if i > end:
            return NO_FIT, row
        step += ops.STEP_WIDTH


_fit = make_fit(follow)


@kernel
def match(
    buffer: Any,
    offsets: Any,
    lengths: Any,
    verdicts: Any,
    messages: Any,
    words: Any,
    steps: Any,
    items: Any,
    layouts: Any,
    known: int,
    spans: Any,
    room: int,
    row_payload: Any,
    row_message: Any,
    rows: Any,
    before: Any,
    at: Any,
) -> int:
    """Match payloads of msgpack; arguments and result are those of `match_json.match`."""
    payloads, channels = len(offsets), len(rows)
    buffer = raw(buffer)
    offsets = raw(offsets)
    lengths = raw(lengths)
    verdicts = raw(verdicts)
    messages = raw(messages)
    words = raw(words)
    steps = raw(steps)
    items = raw(items)
    layouts = raw(layouts)
    spans = raw(spans)
    row_payload = raw(row_payload)
    row_message = raw(row_message)
    rows = raw(rows)
    before = raw(before)
    at = raw(at)
    last = 0
    resumed = at[ops.AT_BYTE] >= 0
    for payload in range(at[ops.AT_PAYLOAD], payloads):
        if verdicts[payload] != ops.GOOD:
            continue
        end = offsets[payload] + lengths[payload]
        total, i = _count(buffer, offsets[payload])
        count = np.int64(0)
        after = np.int64(-1)
        good = lengths[payload] > 0 and total >= 0 and i <= end
        if resumed:
            resumed = False
            i = at[ops.AT_BYTE]
            count = at[ops.AT_MESSAGE]
            after = at[ops.AT_AFTER]
        else:
            for channel in range(channels):
                before[channel] = rows[channel]
            messages[payload] = 0
        while good and count < total:
            stop = after
            if stop >= 0:
                after = np.int64(-1)  # another path has decoded this message
            elif i >= end:
                good = False
                break
            else:
                stop, top, last = _fit(
                    buffer, i, end, words, steps, items, layouts, known, spans, room, rows, last
                )
                if stop >= 0:
                    channel = layouts[last * ops.LAYOUT_WIDTH + ops.CHANNEL]
                    row = rows[channel]
                    rows[channel] = top
                    while row < top:
                        row_payload[channel * room + row] = payload
                        row_message[channel * room + row] = count
                        row += 1
                    messages[payload] += 1
                if stop < 0:
                    at[ops.AT_PAYLOAD] = payload
                    at[ops.AT_MESSAGE] = count
                    at[ops.AT_BYTE] = i
                    at[ops.AT_AFTER] = -1
                    return ops.FULL if stop == NO_ROOM else ops.MISS
            count += 1
            i = stop
        if not good or i != end:
            verdicts[payload] = ops.FELL_BACK
            messages[payload] = 0
            for channel in range(channels):
                rows[channel] = before[channel]
    return ops.DONE
