"""Pass 1 for JSON: find the values of every message by the layouts learned so far.

Messages of a type are identical except for their values. So a message is compared with the learned layouts
word by word, and only the end of each value is searched for between the literals. Pass 2 checks the values
themselves and refuses what does not fit its column.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels import ops
from workers.kernels.compiling import called, kernel
from workers.kernels.fit import NO_FIT, NO_ROOM, literal_fits, make_fit
from workers.kernels.keys import GAP, hurry, move_to
from workers.kernels.tokens import (
    CLOSE,
    CLOSES,
    COMMA,
    OPEN,
    QUOTE,
    QUOTES,
    is_bare,
    is_plain,
    list_end,
    skip_space,
)
from workers.kernels.words import find, raw, repeated

_FAR = 256
"""How far the end of a number is searched for. The byte that ends it in one layout may never come in
another.
"""


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
    """Return where the levels of one side of a book end (from after their bracket), and the next row.

    A negative end is `NO_FIT` (not in the form of `item`) or `NO_ROOM`.
    """
    i = skip_space(buffer, i, end)
    if i < end and buffer[i] == CLOSE:
        return i + 1, row
    while i < end:
        if row >= room:
            return NO_ROOM, row
        for part in range(2):
            if not literal_fits(
                buffer, i, end, words, items[item + 4 * part + 0], items[item + 4 * part + 1]
            ):
                return NO_FIT, row
            i += items[item + 4 * part + 1]
            stop = find(buffer, i, min(end, i + _FAR), repeated(items[item + 4 * part + 3]))
            if stop == i:
                return NO_FIT, row
            spans[items[item + 4 * part + 2] * room + row] = np.uint64(i) | np.uint64(
                stop - i
            ) << np.uint64(32)
            i = stop
        spans[slot * room + row] = np.uint64(side)
        if not literal_fits(buffer, i, end, words, items[item + 8 + 0], items[item + 8 + 1]):
            return NO_FIT, row
        i += items[item + 8 + 1]
        row += 1
        if i < end and buffer[i] <= 0x20:
            i = skip_space(buffer, i, end)
        if i < end and buffer[i] == COMMA:
            i += 1
            if i < end and buffer[i] <= 0x20:
                i = skip_space(buffer, i, end)
        elif i < end and buffer[i] == CLOSE:
            return i + 1, row
        else:
            return NO_FIT, row
    return NO_FIT, row


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

    A negative end is `NO_FIT`, or `NO_ROOM` for the rows of a book. With `guess`, each value is taken to be
    as long as the last one if a byte that ends it is in that place. Then the processor need not wait for
    one end to search the next. A wrong guess makes the message not fit.
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
        if action == ops.BARE:
            start = i
            i = find(buffer, i, min(end, i + _FAR), repeated(steps[step + ops.ARGUMENT]))
            if i == start:  # an empty text is not a value: its span would mean that the key is missing
                return NO_FIT, row
            spans[slot * room + row] = np.uint64(start) | np.uint64(i - start) << np.uint64(32)
        elif action == ops.SAME_BARE:
            start = i
            i += steps[step + ops.SECOND]
            if not guess or i >= end or buffer[i] != steps[step + ops.ARGUMENT]:
                i = find(buffer, start, min(end, start + _FAR), repeated(steps[step + ops.ARGUMENT]))
                steps[step + ops.SECOND] = i - start
            if i == start:
                return NO_FIT, row
            spans[slot * room + row] = np.uint64(start) | np.uint64(i - start) << np.uint64(32)
        elif action == ops.TEXT:
            start = i - 1
            i = find(buffer, i, end, QUOTES) + 1
            spans[slot * room + row] = np.uint64(start) | np.uint64(i - start) << np.uint64(32)
        elif action == ops.SAME_LENGTH:
            start = i - 1
            i += steps[step + ops.ARGUMENT]
            if not guess or i >= end or buffer[i] != QUOTE:
                i = find(buffer, start + 1, end, QUOTES)
                steps[step + ops.ARGUMENT] = i - start - 1
            i += 1
            spans[slot * room + row] = np.uint64(start) | np.uint64(i - start) << np.uint64(32)
        elif action == ops.ONE:
            # Guess that the text is one byte long, so that the processor need not wait for the search.
            start = i - 1
            i += 2
            if not guess or i > end or buffer[i - 1] != QUOTE:
                i = find(buffer, start + 1, end, QUOTES) + 1
            spans[slot * room + row] = np.uint64(start) | np.uint64(i - start) << np.uint64(32)
        elif action == ops.LIST:
            start = i - 1
            i = start + steps[step + ops.ARGUMENT]
            if not guess or i > end or buffer[i - 1] != CLOSE:
                i = find(buffer, start + 1, end, CLOSES) + 1
                steps[step + ops.ARGUMENT] = i - start
            spans[slot * room + row] = np.uint64(start) | np.uint64(i - start) << np.uint64(32)
        elif action == ops.END:
            if top == row:
                return i, row + 1
            while first < step:  # a book: the message's own values hold for each level
                slot = steps[first + ops.SLOT]
                if steps[first + ops.ACTION] != ops.LEVELS and slot >= 0:
                    for below in range(row + 1, top):
                        spans[slot * room + below] = spans[slot * room + row]
                first += ops.STEP_WIDTH
            return i, top
        elif action == ops.HERE:
            length = steps[step + ops.ARGUMENT]
            spans[slot * room + row] = np.uint64(i) | np.uint64(length) << np.uint64(32)
        elif action == ops.MISSING:
            spans[slot * room + row] = np.uint64(0)
        elif action == ops.SKIP_TEXT:
            start = i
            i = find(buffer, i, end, QUOTES)
            if not is_plain(buffer, start, i):
                return NO_FIT, row
            i += 1
        elif action == ops.SKIP_BARE:
            start = i
            i = find(buffer, i, min(end, i + _FAR), repeated(steps[step + ops.ARGUMENT]))
            if not is_bare(buffer, start, i):
                return NO_FIT, row
        elif action == ops.SKIP_LIST:
            i = list_end(buffer, i, end) if i < end and buffer[i] == OPEN else -1
            if i < 0:
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
        else:
            return NO_FIT, row
        if i > end:
            return NO_FIT, row
        step += ops.STEP_WIDTH


_fit = make_fit(follow)

_NONE = -1
_SEVERAL = -2


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
    entries: Any,
    window: Any,
) -> int:
    """Match the messages of payloads from the state in `at`; return `ops.DONE`, or why the match stopped.

    `buffer`: uint8, all payloads and `SPARE` more bytes. `offsets`, `lengths`: int64 per payload.
    `verdicts` uint8 and `messages` uint32 per payload are written here. `spans`: uint64 (slot, row), `room`
    rows per slot, flat; `steps` is flat, too. `row_payload`, `row_message`: int32 (channel, row). `rows`:
    int64 per channel; `before` is its value when the payload began.
    """
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
    entries = raw(entries)
    window = raw(window)
    last = 0
    grown = np.int64(_SEVERAL)  # the channel with rows of this payload, whose `before` is out of date
    resumed = at[ops.AT_BYTE] >= 0
    for payload in range(at[ops.AT_PAYLOAD], payloads):
        if verdicts[payload] != ops.GOOD:
            continue
        i = offsets[payload]
        end = i + lengths[payload]
        count = 0
        after = -1
        good = True
        if resumed:
            resumed = False
            i = at[ops.AT_BYTE]
            count = at[ops.AT_MESSAGE]
            after = at[ops.AT_AFTER]
        else:
            if grown >= 0:
                before[grown] = rows[grown]
            elif grown == _SEVERAL:
                for channel in range(channels):
                    before[channel] = rows[channel]
            grown = _NONE
            messages[payload] = 0
            i = skip_space(buffer, i, end)
            good = i < end and buffer[i] == OPEN
            i = skip_space(buffer, i + 1, end)
            if good and i < end and buffer[i] == CLOSE:
                if skip_space(buffer, i + 1, end) != end:
                    verdicts[payload] = ops.FELL_BACK
                continue
        move_to(window, i)
        while good:
            stop = after
            if stop >= 0:
                after = -1  # another path has decoded this message
                move_to(window, stop)
            else:
                stop, last = hurry(
                    buffer, i, end, CLOSE, entries, layouts, known, spans, room, rows, last, window
                )
                if stop >= 0:
                    top = rows[layouts[last * ops.LAYOUT_WIDTH + ops.CHANNEL]] + 1
                else:
                    stop, top, last = _fit(
                        buffer, i, end, words, steps, items, layouts, known, spans, room, rows, last
                    )
                    if stop >= 0:
                        move_to(window, stop)
                if stop >= 0:
                    channel = layouts[last * ops.LAYOUT_WIDTH + ops.CHANNEL]
                    grown = channel if grown in (_NONE, channel) else np.int64(_SEVERAL)
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
            if i >= end or buffer[i] != COMMA:
                i = skip_space(buffer, i, end)
            if i < end and buffer[i] == COMMA:
                i += 1
                if buffer[i] <= 0x20:
                    i = skip_space(buffer, i, end)
                window[GAP] = i - stop
                continue
            good = i < end and buffer[i] == CLOSE and skip_space(buffer, i + 1, end) == end
            break
        if not good:
            verdicts[payload] = ops.FELL_BACK
            messages[payload] = 0
            for channel in range(channels):
                rows[channel] = before[channel]
    return ops.DONE
