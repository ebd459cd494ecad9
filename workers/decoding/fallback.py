"""The fallback decoder: payload bytes to columns through `orjson` and `msgpack`.

    payloads ─► parse ─► messages by channel ─► columns (`columns.py`) ─► codes (`codes.py`)

It is complete and strict rather than fast. It knows every message type of every stream, and the kernels
must give equal results. The messages of a channel are converted together. Only if one does not fit, they
are converted one by one, so that exactly the malformed ones are rejected, each with its reason and bytes.
If a payload cannot be parsed, the messages that can be are kept (`salvage.py`). `records.py` divides
bodies of REST into records.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import orjson

from mdstream.errors import UnfitError
from mdstream.handoff.columns import ColumnData
from mdstream.handoff.ticket import BodyContents, Reject
from mdstream.streams.spec import LEVEL_KEYS, Channel, PayloadKind, StreamSpec
from mdstream.venues.alpaca.bodies import CONTROL, SYMBOL, TYPE
from workers.decoding.codes import BatchCodes, places_of
from workers.decoding.columns import (
    Coded,
    ColumnMaker,
    Message,
    Position,
    Rows,
    find_empty,
    flatten,
    masks_of,
    type_name,
)
from workers.decoding.lost_books import books_in, books_of
from workers.decoding.payloads import Payloads, Piece
from workers.decoding.records import BodyCutter, ParsedBody, make_contents, parse_body
from workers.decoding.requested import NOT_REQUESTED, Requested
from workers.decoding.salvage import MSGPACK_ERRORS, Unreadable, json_messages, keep_bytes, msgpack_messages

_MAPS = (0xDE, 0xDF)
"""First bytes of large maps in msgpack."""
_MOST_BAD_LEVELS = 64
"""Most levels that a message of a book may lose; beyond that, it is a reject as a whole."""


@dataclass(slots=True)
class Decoded:
    """The decoded contents of one batch."""

    columns: dict[str, Sequence[ColumnData]] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    """The accepted messages in `columns` that the fallback decoder decoded."""
    places: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = field(default_factory=dict)
    """Payload and message of each row, for channels with rows from kernels."""
    counts: list[int] = field(default_factory=list)
    """Messages per payload; a payload that cannot be split counts as one."""
    rejects: list[Reject] = field(default_factory=list)
    control: list[Message] = field(default_factory=list)
    new: dict[str, tuple[str, ...]] = field(default_factory=dict)
    bodies: dict[int, BodyContents] = field(default_factory=dict)
    """REST payload → its contents."""
    lost_levels: list[tuple[int, str]] = field(default_factory=list)
    """Levels of order books that are in no row: the place of their message (as in `order_of`), and the
    symbol; empty if they may be of any book.
    """
    empty: set[Position] = field(default_factory=set)
    """Messages that make neither a row nor a reject: snapshots whose parts are all absent."""
    fell_back: int = 0
    """Payloads that kernels started and left to the fallback decoder."""
    fault: str = ""
    """An error of our own code, if there was one: of the kernels, then all payloads fell back; or of the
    fallback decoder, then the messages with the error are rejects.
    """

    def order_of(self, name: str) -> npt.NDArray[np.int64]:
        """Return a sort key for each row of a channel; it sorts rows of all channels by receipt."""
        if name in self.places:
            payload, message = self.places[name]
        else:
            payload, message = np.array(self.rows[name].positions, np.int64).reshape(-1, 2).T
        order: npt.NDArray[np.int64] = payload.astype(np.int64) << 32 | message
        return order

    def lose_levels(self, position: Position, symbol: Any) -> None:
        """Note that a message, or a part of one, is in no row; `symbol` is what it says."""
        payload, message = position
        self.lost_levels.append((payload << 32 | max(0, message), symbol if type(symbol) is str else ""))


class FallbackDecoder:
    """Decodes the payloads of one stream, batch by batch.

    `known` returns the codes of a dictionary by name; it may grow between batches, never within one.
    """

    def __init__(self, spec: StreamSpec, known: Callable[[str], Mapping[str, int]]) -> None:
        self._spec = spec
        self._known = known
        self._maker = ColumnMaker()

    def decode(self, payloads: Payloads) -> Decoded:
        """Return the columns of a batch. Never raises for malformed bytes."""
        pieces = [payloads.piece(i) for i in range(len(payloads))]
        return self.decode_pieces(pieces, BatchCodes(self._known), [0] * len(payloads))

    def decode_pieces(self, pieces: Iterable[Piece], codes: BatchCodes, counts: list[int]) -> Decoded:
        """Return the columns of the pieces that kernels left.

        `codes` has the batch's new texts so far, `counts` the number of messages of each payload that
        kernels decoded.
        """
        out = Decoded(counts=counts)
        bodies: dict[int, ParsedBody] = {}
        pieces = list(pieces)
        given = [piece for piece in pieces if piece.kind < PayloadKind.MARK]
        requests = {
            piece.payload + 1: Requested(piece.data, self._spec.chain)
            for piece in pieces
            if piece.kind is PayloadKind.REQUESTED
        }
        for piece in given:
            try:
                if piece.kind.from_stream:
                    parsed = _parse_messages(piece.data, piece.kind)
                    counts[piece.payload] += self._split_stream(parsed, piece, out)
                else:
                    body = bodies[piece.payload] = parse_body(piece, self._spec)
                    counts[piece.payload] += self._split_rest(body, piece, requests, out)
            except UnfitError as error:
                out.rejects.append(Reject(piece.payload, -1, str(error)))
                counts[piece.payload] += 1
                for symbol in books_in(piece, self._spec):
                    out.lose_levels((piece.payload, -1), symbol)
                if not piece.kind.from_stream:
                    out.bodies[piece.payload] = BodyContents(frozenset(), {}, "", str(error))
        coded = {name: self._columns(name, out, codes) for name in list(out.rows)}
        out.new = codes.new()
        for name, columns in out.columns.items():
            out.columns[name] = codes.assign(self._spec.by_name[name], columns, coded[name], out.new)
        for payload, body in bodies.items():
            without = {message for at, message in out.empty if at == payload}
            rejects = [reject for reject in out.rejects if reject.payload == payload]
            out.bodies[payload] = make_contents(body, rejects, without)
        if out.rejects:
            out.rejects = self.add_bytes(out.rejects, given)
        return out

    # -- 1. payloads to messages

    def _split_stream(self, parsed: Any, piece: Piece, out: Decoded) -> int:
        if type(parsed) is not list:
            raise UnfitError(f"expected an array of messages, got {type_name(parsed)}")
        control = 0
        for index, message in enumerate(parsed, piece.message):
            wire_type = message.get(TYPE) if type(message) is dict else None
            channel = self._spec.by_type.get(wire_type) if type(wire_type) is str else None
            if channel is not None:
                rows = out.rows.setdefault(channel.name, Rows())
                rows.records.append(message)
                rows.positions.append((piece.payload, index))
                rows.recv_ns.append(piece.recv_ns)
            elif type(wire_type) is str and wire_type in CONTROL:
                out.control.append(message)
                control += 1
            else:
                out.rejects.append(Reject(piece.payload, index, _why_unknown(message)))
                for symbol in books_of(message, self._spec):
                    out.lose_levels((piece.payload, index), symbol)
        return len(parsed) - control

    def _split_rest(
        self, body: ParsedBody, piece: Piece, requests: Mapping[int, Requested], out: Decoded
    ) -> int:
        payload = piece.payload
        request = requests.get(payload)
        others = request.find_others(body.symbols) if request is not None else ()
        rows = out.rows.setdefault(body.channel.name, Rows())
        for index, record in enumerate(body.records):
            if type(record) is not dict or body.symbols[index] in others:
                why = NOT_REQUESTED if type(record) is dict else _why_unknown(record)
                out.rejects.append(Reject(payload, index, why))
                continue
            rows.records.append(record)
            rows.positions.append((payload, index))
            rows.recv_ns.append(piece.recv_ns)
        if body.rest:
            why, place = "bytes after the end of the body", "end of the body"
            out.rejects.append(Reject(payload, len(body.records), why, body.rest, place=place))
        return len(body.records) + bool(body.rest)

    def add_bytes(self, rejects: Sequence[Reject], pieces: Sequence[Piece]) -> list[Reject]:
        """Return rejects with their bytes, and those of bodies with their places."""
        wanted = {reject.payload for reject in rejects}
        messages: dict[int, dict[int, bytes]] = {}
        bodies: dict[int, BodyCutter] = {}
        for piece in pieces:
            if piece.payload not in wanted:
                continue
            if piece.kind.from_stream:
                found = messages.setdefault(piece.payload, {-1: bytes(piece.data)})
                found |= enumerate(_raw_messages(piece), piece.message)
            else:
                bodies[piece.payload] = BodyCutter(piece, self._spec)

        def complete(reject: Reject) -> Reject:
            if reject.payload in bodies:
                return bodies[reject.payload].complete(reject)
            found = messages[reject.payload]
            return reject._replace(data=found.get(reject.message, found[-1]))

        return list(map(complete, rejects))

    # -- 2. messages to columns

    def _columns(self, name: str, out: Decoded, codes: BatchCodes) -> Coded:
        """Return the columns of one channel, and the texts still to be coded."""
        channel, rows = self._spec.by_name[name], out.rows[name]
        try:
            flat = flatten(channel, rows)
            if channel.levels is not None and len(set(flat.positions)) < len(rows.positions):
                raise UnfitError("a book without levels, which has no row that would be checked")
            columns, coded = self._maker.columns(channel, flat)
            if len(find_empty(channel, masks_of(columns, coded))):
                raise UnfitError("a snapshot without a part")
            codes.admit(channel, coded, places_of(flat.positions))
        except Exception as error:
            if not isinstance(error, UnfitError):  # an error in our code must not lose a batch
                out.fault = describe_fault("the fallback decoder", error)
            flat = self._sift(channel, rows, out, codes)
            columns, coded = self._maker.columns(channel, flat)
        out.rows[name] = flat
        if flat.records:
            out.columns[name] = columns
        return coded

    def _sift(self, channel: Channel, rows: Rows, out: Decoded, codes: BatchCodes) -> Rows:
        """Convert messages one by one: reject those that do not fit, leave out empty ones."""
        good = Rows()
        for record, position, recv_ns in zip(rows.records, rows.positions, rows.recv_ns, strict=True):
            try:
                kept = self._keep_fitting(channel, record, position, out)
                flat = flatten(channel, Rows([kept], [position], [recv_ns]))
                columns, coded = self._maker.columns(channel, flat)
                if len(find_empty(channel, masks_of(columns, coded))):
                    out.empty.add(position)
                    continue
                codes.admit(channel, coded, places_of(flat.positions))
            except Exception as error:
                known = isinstance(error, UnfitError)
                why = str(error) if known else describe_fault("the fallback decoder", error)
                out.rejects.append(Reject(*position, why))
                if channel.levels is not None:
                    out.lose_levels(position, record.get(SYMBOL))
            else:
                good.records += flat.records
                good.positions += flat.positions
                good.recv_ns += flat.recv_ns
        return good

    def _keep_fitting(self, channel: Channel, record: Message, position: Position, out: Decoded) -> Message:
        """Return a record without the parts or levels that do not fit, which are rejects."""
        if channel.has_parts:
            return self._keep_parts(channel, record, position, out)
        if channel.levels is not None:
            return self._keep_levels(channel, channel.levels, record, position, out)
        return record

    def _keep_levels(
        self, channel: Channel, sides: Collection[str], record: Message, position: Position, out: Decoded
    ) -> Message:
        """Return a message of a book without the levels that do not fit; as it is if none fits.

        Each side with such levels is a reject, and counts as a message of its own. Raises `UnfitError` if
        the message itself does not fit, or more than `_MOST_BAD_LEVELS` of its levels.
        """
        bad: list[tuple[str, str]] = []

        def keep_fitting(side: str, levels: Any) -> list[Any]:
            try:
                alone = {**record, **dict.fromkeys(sides), side: levels}
                self._maker.columns(channel, flatten(channel, Rows([alone], [position], [0])))
            except UnfitError as error:
                if type(levels) is list and len(levels) > 1:
                    middle = len(levels) // 2
                    return keep_fitting(side, levels[:middle]) + keep_fitting(side, levels[middle:])
                bad.append((side, str(error)))
                if len(bad) > _MOST_BAD_LEVELS:
                    raise UnfitError(bad[0][1]) from error
                return []
            return levels or []

        without_level = {**record, **dict.fromkeys(LEVEL_KEYS)}
        self._maker.columns(channel, Rows([without_level], [position], [0]))
        kept = {side: keep_fitting(side, record.get(side)) for side in sides}
        if not bad or not any(kept.values()):
            return record
        payload, message = position
        for side, why in dict(reversed(bad)).items():
            out.rejects.append(Reject(payload, message, why, part=side))
            out.counts[payload] += 1
        out.lose_levels(position, record.get(SYMBOL))
        return {**record, **kept}

    def _keep_parts(self, channel: Channel, record: Message, position: Position, out: Decoded) -> Message:
        """Return a snapshot without the parts that do not fit; as it is if none that fits has a value.

        Each part that does not fit is a reject, and counts as a message of its own.
        """
        symbol = {SYMBOL: record.get(SYMBOL)}
        kept, bad = dict(symbol), dict[str, str]()
        for key, part in record.items():
            try:
                found = self._maker.columns(channel, Rows([{**symbol, key: part}], [position], [0]))
                if not len(find_empty(channel, masks_of(*found))):
                    kept[key] = part
            except UnfitError as error:
                bad[key] = part.reason if type(part) is Unreadable else str(error)
        if len(kept) == 1:
            return record
        payload, message = position
        for key, why in bad.items():
            out.rejects.append(Reject(payload, message, why, part=key))
            out.counts[payload] += 1
        return kept


def describe_fault(where: str, error: Exception) -> str:
    """Return what a log line or a reject says of an error in our own code."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"error in {where}: {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def _parse_messages(payload: memoryview | bytes, kind: PayloadKind) -> Any:
    """Return the messages of a payload; `Unreadable` ones if not all can be parsed."""
    try:
        if kind is PayloadKind.MSGPACK:
            return msgpack.unpackb(payload, strict_map_key=False)
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        found, why = json_messages(bytes(payload)), UnfitError(f"not JSON: {error}")
        cause: Exception = error
    except MSGPACK_ERRORS as error:
        found, cause = msgpack_messages(bytes(payload)), error
        what = str(error) or type(error).__name__
        why = UnfitError(f"not msgpack: {what} (byte {_unreadable(bytes(payload))})")
    if found is None or (len(found) == 1 and type(found[0]) is Unreadable):
        raise why from cause
    return found


def _raw_messages(piece: Piece) -> list[bytes]:
    """Return the bytes of each message of a payload; an empty list if it cannot be split."""
    split = msgpack_messages if piece.kind is PayloadKind.MSGPACK else json_messages
    return split(bytes(piece.data), keep_bytes) or []


def _unreadable(payload: bytes) -> int:
    """Return the offset of the first item that makes `payload` an invalid msgpack array of maps."""
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(1, len(payload)))
    unpacker.feed(payload)
    at = 0
    try:
        for _ in range(unpacker.read_array_header()):
            at = unpacker.tell()
            if payload[at] & 0xF0 != 0x80 and payload[at] not in _MAPS:
                unpacker.skip()
                continue
            for item in range(2 * unpacker.read_map_header()):
                at = unpacker.tell()
                value = unpacker.unpack()
                if item % 2 == 0:
                    hash(value)  # a key
        at = unpacker.tell()
    except (ValueError, TypeError, IndexError, msgpack.UnpackException):
        pass
    return int(at)


def _why_unknown(message: Any) -> str:
    if type(message) is Unreadable:
        return message.reason
    if type(message) is not dict:
        return f"expected an object, got {type_name(message)}"
    if TYPE not in message:
        return "T: missing"
    return f"T: unknown message type {str(message['T'])[:40]!r}"
