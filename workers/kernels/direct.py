"""The direct path: payloads of a slab to rows at the ends of their frames, in one call.

    slab ─► match ─► spans ─► values at the ends of frames ─► checks ─► null bits, partials
                                   (no reader sees them yet)

It handles batches in which everything is usual: payloads of the stream in known layouts, texts that have
codes, values in their usual form, room in every chunk. If anything is not, it returns `IRREGULAR` and the
batch takes the usual way (`workers.job`), which writes the same rows to the same places. Until all checks
have passed, only memory behind the last row changes, and no bit of it that the usual way does not set.

The kernels find their arrays in a book (`kernels.book`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.handoff.slab import ENTRY, HEADER_BYTES
from mdstream.streams.spec import PayloadKind
from workers.kernels import book as b
from workers.kernels import columns as plans
from workers.kernels import keys, match_json, match_msgpack, ops, partials, values_json, values_msgpack
from workers.kernels.columns import COUNTS_WIDTH, PLAN_WIDTH, SCRATCH_ARRAYS, TARGETS_WIDTH
from workers.kernels.compiling import called, inlined, kernel
from workers.kernels.partials import TAPES, UNKNOWN
from workers.kernels.words import as_float64, as_int64, as_uint8, as_uint16, as_uint32, as_uint64, raw

IRREGULAR = -1
REGULAR = 0

MOST_ROWS = 512
"""Most rows of one channel in a batch; larger batches gain little here."""
MOST_PAYLOADS = 256

# Words of a channel.
ADDRESS, SIZE = 0, 1
"""The chunk that is being filled: its address, and its bytes."""
AT, LEFT = 2, 3
"""Its next row, and its rows that are left."""
BASE, COLUMNS = 4, 5
"""The channel's first column in the arrays of all columns, and how many it has."""
IS_BOOK = 6
NULLS = 7
"""Result: a bit for each column with a null."""
NEWEST_BY = 8
"""The column whose greatest value is a symbol's newest row; -1 if the channel has no last values."""
RECEIVED = 9
"""The column of receive times."""
EVENT_TIME = 10
"""The column whose distance from the receive time is the delay of a row; -1 if there is none."""
CHANNEL_WIDTH = 11

# Words of a column.
VALUES, VALIDITY = 0, 1
"""Bytes of the chunk where its values and its null bits begin; -1 if it has no null bits."""
WIDTH = 2
"""Bytes of a value; 0 if values are bits."""
NEEDED = 3
"""Whether a row without this value is irregular."""
COLUMN_WIDTH = 4

# Columns of trades and quotes that bars need; -1 if there is none.
SYMBOL, TIME, PRICE, VOLUME, RECEIPT, CONDITIONS, TAPE, MARK = range(8)
BID, ASK = 2, 3

_OFFSET, _LENGTH, _KIND, _COMPRESSION, _RECEIVED, _MESSAGES = (
    ENTRY.fields[name][1]  # type: ignore[index]
    for name in ("offset", "length", "kind", "compression", "recv_ns", "messages")
)
_ENTRY_BYTES = ENTRY.itemsize
_JSON, _MSGPACK = int(PayloadKind.JSON), int(PayloadKind.MSGPACK)


@called
def _begin(book: Any, kind: int) -> bool:
    """Read the table of the slab; return whether all payloads are plain ones of `kind`."""
    slab = raw(b.buffer(book))
    offsets, lengths, received = raw(b.offsets(book)), raw(b.lengths(book)), raw(b.received(book))
    verdicts, messages = raw(b.verdicts(book)), raw(b.messages(book))
    total = 0
    for payload in range(book[b.PAYLOADS]):
        entry = HEADER_BYTES + payload * _ENTRY_BYTES
        if as_uint16(slab, entry + _KIND)[0] != kind or as_uint16(slab, entry + _COMPRESSION)[0] != 0:
            return False
        offsets[payload] = as_int64(slab, entry + _OFFSET)[0]
        lengths[payload] = as_uint32(slab, entry + _LENGTH)[0]
        received[payload] = as_int64(slab, entry + _RECEIVED)[0]
        verdicts[payload] = ops.GOOD
        messages[payload] = 0
        total += lengths[payload]
    book[b.BYTES] = total
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
        if verdicts[payload] != ops.GOOD:
            return False
    rows = b.rows(book)
    for number in range(len(rows)):
        count = rows[number]
        word = number * CHANNEL_WIDTH
        if count and (channels[word + IS_BOOK] or count > MOST_ROWS or count > channels[word + LEFT]):
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


@inlined
def mask_of(book: Any, number: int, column: int) -> Any:
    """Return the mask of a column of a channel, by its number in the channel."""
    channels = b.channels(book)
    word = number * CHANNEL_WIDTH
    count = b.rows(book)[number]
    place = channels[word + BASE] * SCRATCH_ARRAYS * MOST_ROWS
    place += (channels[word + COLUMNS] + column) * count
    return b.scratch(book)[place : place + count]


@inlined
def missing_in(book: Any, number: int, column: int) -> int:
    """Return how many rows of the batch lack a value in a column of a channel."""
    base = b.channels(book)[number * CHANNEL_WIDTH + BASE]
    return b.counts(book)[(base + column) * COUNTS_WIDTH + plans.MISSING]


@inlined
def values_at(book: Any, number: int, column: int) -> tuple[Any, int]:
    """Return the chunk of a channel, and the byte where the batch's values of a column begin."""
    channels, columns = b.channels(book), b.columns(book)
    word = number * CHANNEL_WIDTH
    place = (channels[word + BASE] + column) * COLUMN_WIDTH
    start = columns[place + VALUES] + channels[word + AT] * columns[place + WIDTH]
    return raw(b.bytes_at(channels[word + ADDRESS], channels[word + SIZE])), start


# -- bars


@called
def _add_trade(book: Any, row: int, event: int) -> bool:
    """Add a trade to the events; return whether its effect is known."""
    number = book[b.TRADES]
    trade = b.trade(book)
    area, symbols = values_at(book, number, trade[SYMBOL])
    _, times = values_at(book, number, trade[TIME])
    _, prices = values_at(book, number, trade[PRICE])
    _, volumes = values_at(book, number, trade[VOLUME])
    _, receipts = values_at(book, number, trade[RECEIPT])
    effect = np.int64(partials.ALL)
    if trade[CONDITIONS] >= 0:
        conditions, tape = np.int64(0), np.int64(0)
        if not missing_in(book, number, trade[CONDITIONS]) or mask_of(book, number, trade[CONDITIONS])[row]:
            _, place = values_at(book, number, trade[CONDITIONS])
            conditions = np.int64(as_uint16(area, place)[row]) + 1
        if trade[TAPE] >= 0 and (
            not missing_in(book, number, trade[TAPE]) or mask_of(book, number, trade[TAPE])[row]
        ):
            _, place = values_at(book, number, trade[TAPE])
            tape = np.int64(as_uint16(area, place)[row]) + 1
        effects = b.effects(book)
        if tape >= TAPES or conditions * TAPES + tape >= len(effects):
            return False
        effect = np.int64(effects[conditions * TAPES + tape])
        if effect == UNKNOWN:
            return False
    if trade[MARK] >= 0:
        lacking = missing_in(book, number, trade[MARK])
        if lacking == 0 or mask_of(book, number, trade[MARK])[row]:
            return False
    for column in (trade[PRICE], trade[VOLUME]):
        if missing_in(book, number, column) and not mask_of(book, number, column)[row]:
            effect = np.int64(partials.NOTHING)
    b.symbols(book)[event] = as_uint32(area, symbols)[row]
    b.times(book)[event] = as_int64(area, times)[row]
    b.prices(book)[event] = as_float64(area, prices)[row]
    kind = b.plans(book)[(_base(book, number) + trade[VOLUME]) * PLAN_WIDTH + plans.KIND]
    if kind == plans.FLOAT:
        b.volumes(book)[event] = as_float64(area, volumes)[row]
    elif kind == plans.INT:
        b.volumes(book)[event] = np.float64(as_int64(area, volumes)[row])
    else:
        b.volumes(book)[event] = np.float64(as_uint64(area, volumes)[row])
    b.kinds(book)[event] = effect
    b.receipts(book)[event] = as_int64(area, receipts)[row]
    return True


@called
def _add_quote(book: Any, row: int, event: int) -> None:
    """Add the midpoint of a quote to the events."""
    number = book[b.MIDPOINTS]
    quote = b.quote(book)
    area, symbols = values_at(book, number, quote[SYMBOL])
    _, times = values_at(book, number, quote[TIME])
    _, bids = values_at(book, number, quote[BID])
    _, asks = values_at(book, number, quote[ASK])
    _, receipts = values_at(book, number, quote[RECEIPT])
    effect = np.int64(partials.MIDPOINT)
    for column in (quote[BID], quote[ASK]):
        if missing_in(book, number, column) and not mask_of(book, number, column)[row]:
            effect = np.int64(partials.NOTHING)
    b.symbols(book)[event] = as_uint32(area, symbols)[row]
    b.times(book)[event] = as_int64(area, times)[row]
    b.prices(book)[event] = (as_float64(area, bids)[row] + as_float64(area, asks)[row]) / 2
    b.volumes(book)[event] = 0.0
    b.kinds(book)[event] = effect
    b.receipts(book)[event] = as_int64(area, receipts)[row]


@inlined
def _base(book: Any, number: int) -> int:
    return b.channels(book)[number * CHANNEL_WIDTH + BASE]


@inlined
def _order(book: Any, number: int, row: int) -> int:
    """Return a number by which rows of all channels are in the order of receipt."""
    place = number * book[b.ROOM] + row
    return np.int64(b.row_payload(book)[place]) << 32 | np.int64(b.row_message(book)[place])


@called
def _fold(book: Any, out: Any) -> bool:
    """Fold trades and midpoints to partials in `out`; return whether all are usual."""
    rows = b.rows(book)
    book[b.PARTIALS] = 0
    trades = rows[book[b.TRADES]] if book[b.TRADES] >= 0 else np.int64(0)
    quotes = rows[book[b.MIDPOINTS]] if book[b.MIDPOINTS] >= 0 else np.int64(0)
    count = trades + quotes
    if count == 0:
        return True
    trade, quote = 0, 0
    while trade + quote < count:
        if quote == quotes or (
            trade < trades and _order(book, book[b.TRADES], trade) < _order(book, book[b.MIDPOINTS], quote)
        ):
            if not _add_trade(book, trade, trade + quote):
                return False
            trade += 1
        else:
            _add_quote(book, quote, trade + quote)
            quote += 1
    room = 16
    while room <= 2 * count:
        room *= 2
    book[b.PARTIALS] = partials.fold(
        b.symbols(book)[:count],
        b.times(book)[:count],
        b.prices(book)[:count],
        b.volumes(book)[:count],
        b.kinds(book)[:count],
        b.receipts(book)[:count],
        b.places(book)[:room],
        b.whose(book)[:room],
        out,
    )
    return True


# -- the end


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
    counts, scratch = b.counts(book), b.scratch(book)
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
                values = base * SCRATCH_ARRAYS * MOST_ROWS + (2 * width + column) * count
                bits = as_uint8(area, columns[place + VALUES])
                for row in range(count):
                    if scratch[values + row]:
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
        entry = HEADER_BYTES + payload * _ENTRY_BYTES + _MESSAGES
        as_uint32(slab, entry)[0] = messages[payload]
        total += messages[payload]
    book[b.MESSAGES] = total


@called
def _finish(book: Any, out: Any) -> int:
    """Make the batch ready to be published, if everything in it is usual."""
    if not _has_room(book) or not _fold(book, out):
        return IRREGULAR
    _write_bits(book)
    return REGULAR


_decode_json = _make_decode(values_json.convert_raw)
_decode_msgpack = _make_decode(values_msgpack.convert_raw)


@kernel
def decode_json(book: Any, out: Any) -> int:
    """Decode a batch of JSON; `out` takes its partials. Return `REGULAR` or `IRREGULAR`."""
    if not book[b.PAYLOADS] or not _begin(book, _JSON):
        return IRREGULAR
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
    if why != ops.DONE or not _are_matched(book) or not _decode_json(book):
        return IRREGULAR
    return _finish(book, out)


@kernel
def decode_msgpack(book: Any, out: Any) -> int:
    """Decode a batch of msgpack, as `decode_json`."""
    if not book[b.PAYLOADS] or not _begin(book, _MSGPACK):
        return IRREGULAR
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
    if why != ops.DONE or not _are_matched(book) or not _decode_msgpack(book):
        return IRREGULAR
    return _finish(book, out)
