"""Pass 1 for REST bodies: an object that holds the records of each symbol.

    {"trades": {"AAPL": [record, record], "MSFT": [record]}, "next_page_token": null}     lists by symbol
    {"trade": {"AAPL": record}} and {"AAPL": record, "MSFT": record}                      one per symbol
    {"bars": [record, record], "symbol": "AAPL"} and {"bar": record, "symbol": "AAPL"}    one symbol only

Records are matched like messages of a stream. The rest of the body is walked member by member.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.kernels import ops
from workers.kernels.compiling import inlined, kernel
from workers.kernels.fit import NO_ROOM, literal_fits, make_fit
from workers.kernels.keys import GAP, hurry, move_to
from workers.kernels.match_json import follow
from workers.kernels.tokens import CLOSE, COMMA, OPEN, QUOTE, QUOTES, is_bare, is_plain, skip_space
from workers.kernels.words import MASKS, find, load64, raw

_BRACE = 0x7B
_UNBRACE = 0x7D
_COLON = 0x3A
_NULL = 0x6C6C756E

# What the walk expects at its current byte.
_KEY = 0
_RECORD = 1
_LISTED = 2
"""A record in a list."""
_NEXT = 3
"""The byte after the value of a member."""

# What a body has shown so far, as bits.
_INSIDE = 1
"""The walk is inside the object that holds the symbols."""
_CONTENT = 2
"""The member that holds the records."""
_BY_SYMBOL = 4
_BARE = 8
"""Symbols without an enclosing member."""
_PENDING = 16
"""Records of the one symbol that the body names."""
_STRAY = 32
"""A value that would be a record if symbols were bare."""
_TOKEN = 64
_fit = make_fit(follow)


@inlined
def _span(start: int, end: int) -> Any:
    return np.uint64(start) | np.uint64(end - start) << np.uint64(32)


@inlined
def _member(buffer: Any, i: int, end: int) -> tuple[int, int]:
    """Return where the key that begins at `i` ends, and where its value begins; negative if the key is not
    a plain text.
    """
    if i >= end or buffer[i] != QUOTE:
        return -1, -1
    stop = find(buffer, i + 1, end, QUOTES)
    if not is_plain(buffer, i + 1, stop):
        return -1, -1
    value = skip_space(buffer, stop + 1, end)
    if value >= end or buffer[value] != _COLON:
        return -1, -1
    value = skip_space(buffer, value + 1, end)
    return stop + 1, value if value < end else -1


@inlined
def _simple_end(buffer: Any, i: int, end: int) -> int:
    """Return where an unwanted plain text or bare value ends; negative if it is neither."""
    if buffer[i] == QUOTE:
        stop = find(buffer, i + 1, end, QUOTES)
        return stop + 1 if stop < end and is_plain(buffer, i + 1, stop) else -1
    stop = i
    while stop < end and buffer[stop] > 0x20 and buffer[stop] != COMMA and buffer[stop] != _UNBRACE:
        stop += 1
    return stop if is_bare(buffer, i, stop) else -1


@inlined
def _is_null(buffer: Any, i: int, end: int) -> bool:
    return i + 4 <= end and load64(buffer, i) & MASKS[4] == _NULL


@inlined
def _is_key(buffer: Any, key: int, after: int, names: Any, name: int) -> bool:
    """Return whether the key from its quote at `key` to `after` is one of the names."""
    first = name * ops.NAME_WIDTH
    length = np.int64(names[first])
    return after - key - 2 == length and literal_fits(buffer, key + 1, after, names, first + 1, length)


@inlined
def _holds_objects(buffer: Any, i: int, end: int) -> bool:
    """Return whether the value at `i` is an object whose first member is an object."""
    if buffer[i] != _BRACE:
        return False
    _, value = _member(buffer, skip_space(buffer, i + 1, end), end)
    return value >= 0 and buffer[value] == _BRACE


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
    names: Any,
    keys: Any,
    key_payload: Any,
    key_records: Any,
    tokens: Any,
) -> int:
    """Match REST bodies of one kind. The first arguments and the result are those of `match_json.match`.

    `names` uint64 (name, word): its length, then its bytes; for the member that holds records, the same for
    one record, `symbol`, and `next_page_token`. `keys` uint64, `key_payload` int32, `key_records` int64:
    span of each symbol, its payload, and its number of records. `tokens` uint64: span of each payload's
    page token, or 0.
    """
    payloads, channels, key_room = len(offsets), len(rows), len(keys)
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
    names = raw(names)
    keys = raw(keys)
    key_payload = raw(key_payload)
    key_records = raw(key_records)
    tokens = raw(tokens)
    bare_symbols = at[ops.AT_BARE] > 0
    last = 0
    resumed = at[ops.AT_BYTE] >= 0
    for payload in range(at[ops.AT_PAYLOAD], payloads):
        if verdicts[payload] != ops.GOOD:
            continue
        start = np.int64(offsets[payload])
        end = start + lengths[payload]
        if resumed:
            resumed = False
            i = np.int64(at[ops.AT_BYTE])
            count = np.int64(at[ops.AT_MESSAGE])
            place = np.int64(at[ops.AT_PLACE])
            met = np.int64(at[ops.AT_MET])
            whole = np.uint64(at[ops.AT_WHOLE])
            good = True
        else:
            for channel in range(channels):
                before[channel] = rows[channel]
            at[ops.AT_KEYS_BEFORE] = at[ops.AT_KEYS]
            messages[payload] = 0
            tokens[payload] = 0
            i = skip_space(buffer, start, end)
            good = i < end and buffer[i] == _BRACE
            i = skip_space(buffer, i + 1, end)
            count = np.int64(0)
            place = np.int64(_KEY)
            met = np.int64(0)
            whole = np.uint64(0)
            if good and i < end and buffer[i] == _UNBRACE:
                place = np.int64(_NEXT)
        done = False
        while good and not done:
            key = np.int64(at[ops.AT_KEYS]) - 1
            why = ops.DONE
            if place in (_RECORD, _LISTED):
                move_to(window, i)
                stop, last = hurry(
                    buffer, i, end, 0, entries, layouts, known, spans, room, rows, last, window
                )
                if stop >= 0:
                    top = rows[layouts[last * ops.LAYOUT_WIDTH + ops.CHANNEL]] + 1
                else:
                    stop, top, last = _fit(
                        buffer, i, end, words, steps, items, layouts, known, spans, room, rows, last
                    )
                if stop >= 0:
                    channel = layouts[last * ops.LAYOUT_WIDTH + ops.CHANNEL]
                    row = rows[channel]
                    rows[channel] = top
                    symbol = whole if met & _PENDING else keys[key]
                    while row < top:
                        spans[at[ops.AT_SYMBOLS] * room + row] = symbol
                        row_payload[channel * room + row] = payload
                        row_message[channel * room + row] = count
                        row += 1
                    if not met & _PENDING:
                        key_records[key] += 1
                    count += 1
                    i = skip_space(buffer, stop, end)
                    if place == _RECORD:
                        place = np.int64(_NEXT)
                    elif i < end and buffer[i] == COMMA:
                        i = skip_space(buffer, i + 1, end)
                        window[GAP] = i - stop
                    else:
                        good = i < end and buffer[i] == CLOSE
                        i += 1
                        place = np.int64(_NEXT)
                else:
                    why = ops.FULL if stop == NO_ROOM else ops.MISS
                    good = i < end
            elif place == _NEXT:
                i = skip_space(buffer, i, end)
                if i >= end:
                    good = False
                elif buffer[i] == COMMA:
                    i = skip_space(buffer, i + 1, end)
                    place = np.int64(_KEY)
                elif buffer[i] != _UNBRACE:
                    good = False
                elif met & _INSIDE:
                    met &= ~_INSIDE
                    i += 1
                else:
                    done = True
            else:
                after, value = _member(buffer, i, end)
                if value < 0:
                    good = False
                    continue
                first = buffer[value]
                plural = _is_key(buffer, i, after, names, 0)
                if met & _INSIDE or not (
                    plural
                    or _is_key(buffer, i, after, names, 1)
                    or _is_key(buffer, i, after, names, 2)
                    or _is_key(buffer, i, after, names, 3)
                ):
                    held = met & _INSIDE or bare_symbols
                    null = _is_null(buffer, value, end)
                    if not held or not (first in (_BRACE, OPEN) or null):
                        good = not met & _INSIDE
                        met |= _STRAY
                        i = _simple_end(buffer, value, end)
                        good = good and i >= 0
                        place = np.int64(_NEXT)
                        continue
                    if key + 1 >= key_room:
                        why = ops.FULL
                    else:
                        if not met & _INSIDE and not null:
                            met |= _BARE
                        keys[key + 1] = _span(i, after)
                        key_payload[key + 1] = payload
                        key_records[key + 1] = 0
                        at[ops.AT_KEYS] += 1
                        place = np.int64(_NEXT)
                        i = value + 4
                        if not null:
                            i = skip_space(buffer, value + 1, end)
                            closing = _UNBRACE if first == _BRACE else CLOSE
                            if i < end and buffer[i] == closing:
                                i += 1
                            elif first == _BRACE:
                                i = value
                                place = np.int64(_RECORD)
                            else:
                                place = np.int64(_LISTED)
                elif plural or _is_key(buffer, i, after, names, 1):
                    # An object of one symbol and its record may replace a single record.
                    plural = plural or _holds_objects(buffer, value, end)
                    good = not met & _CONTENT and (first in (_BRACE, OPEN))
                    met |= _CONTENT
                    place = np.int64(_NEXT)
                    i = skip_space(buffer, value + 1, end)
                    if first == OPEN:
                        met |= _PENDING
                        if i < end and buffer[i] == CLOSE:
                            i += 1
                        else:
                            place = np.int64(_LISTED)
                    elif plural and whole == 0:
                        met |= _BY_SYMBOL | _INSIDE
                        if i < end and buffer[i] != _UNBRACE:
                            place = np.int64(_KEY)
                    else:
                        met |= _PENDING
                        place = np.int64(_RECORD)
                        i = value
                else:
                    is_symbol = _is_key(buffer, i, after, names, 2)
                    text = first == QUOTE
                    i = _simple_end(buffer, value, end)
                    good = i >= 0 and (text or _is_null(buffer, value, end))
                    place = np.int64(_NEXT)
                    if is_symbol:
                        good = good and text and whole == 0
                        whole = _span(value, i)
                    else:
                        good = good and not met & _TOKEN
                        met |= _TOKEN
                        if text:
                            met |= _STRAY
                            tokens[payload] = _span(value, i)
            if why != ops.DONE and good:
                at[ops.AT_PAYLOAD] = payload
                at[ops.AT_MESSAGE] = count
                at[ops.AT_BYTE] = i
                at[ops.AT_AFTER] = -1
                at[ops.AT_PLACE] = place
                at[ops.AT_MET] = met
                at[ops.AT_WHOLE] = np.int64(whole)
                return why
        if good:
            good = skip_space(buffer, i + 1, end) == end
            if met & _PENDING:
                good = good and whole != 0
            if whole != 0:
                good = good and not bare_symbols and not met & _BY_SYMBOL
            if bare_symbols and met & _CONTENT == 0:
                good = good and not met & _STRAY
            if met & _BARE:
                good = good and not met & _CONTENT
        if good and met & _PENDING:
            key = np.int64(at[ops.AT_KEYS])
            if key >= key_room:
                good = False
            else:
                keys[key] = whole
                key_payload[key] = payload
                key_records[key] = count
                at[ops.AT_KEYS] += 1
                channel = at[ops.AT_CHANNEL]
                for row in range(before[channel], rows[channel]):
                    spans[at[ops.AT_SYMBOLS] * room + row] = whole
        if good:
            messages[payload] = count
        else:
            verdicts[payload] = ops.FELL_BACK
            messages[payload] = 0
            for channel in range(channels):
                rows[channel] = before[channel]
            at[ops.AT_KEYS] = at[ops.AT_KEYS_BEFORE]
    return ops.DONE
