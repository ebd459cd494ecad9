"""The library path: payload bytes to columns through `orjson` and `msgpack`.

    payloads ─► parse ─► messages by channel ─► columns, a whole channel at a time ─► codes for texts

Complete and strict rather than fast: it knows every message type of every stream, and it is the oracle
any faster decoder must equal. A column is converted in one go; only when something in it does not
fit are the messages tried one by one, so that exactly the bad ones are rejected, each with its reason.

Texts get codes at the very end, in the order in which the messages came. So the codes do not depend
on how a stream was cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Any

import msgpack
import numpy as np
import orjson

from mdstream.handoff.columns import Array, ColumnData
from mdstream.handoff.ticket import Reject
from mdstream.streams.spec import (
    CODED,
    Channel,
    Column,
    Kind,
    PayloadKind,
    StreamSpec,
    join_conditions,
)
from mdstream.streams.storage import DICTIONARY_LIMIT, DTYPE, PROVISIONAL
from workers.timestamps import Timestamps

Message = dict[str, Any]
Position = tuple[int, int]
"""Index of a payload in its batch, and of a message in its payload."""

LONGEST_CODED_TEXT = 1024
"""Characters a symbol, exchange or list of conditions may have."""

CONTROL = frozenset({"success", "error", "subscription"})


class Unfit(ValueError):
    """A value that its column cannot take."""


@dataclass(slots=True)
class Rows:
    """The messages of one channel, in the order they came; an order book message makes many rows."""

    records: list[Message] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    recv_ns: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Decoded:
    """Everything found in one batch."""

    columns: dict[str, list[ColumnData]] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    """The accepted messages behind `columns`."""
    counts: list[int] = field(default_factory=list)
    """Messages of each payload; a payload that cannot be split counts as one."""
    rejects: list[Reject] = field(default_factory=list)
    control: list[Message] = field(default_factory=list)
    new: dict[str, tuple[str, ...]] = field(default_factory=dict)
    symbols: dict[int, tuple[frozenset[str], frozenset[str]]] = field(default_factory=dict)
    page_tokens: dict[int, str] = field(default_factory=dict)


class LibraryDecoder:
    """Decodes the payloads of one stream, batch by batch.

    `known` gives the codes of a dictionary by name; it may grow between batches, never within one.
    """

    def __init__(self, spec: StreamSpec, known: Callable[[str], Mapping[str, int]]) -> None:
        self._spec = spec
        self._known = known
        self._timestamps = Timestamps()
        self._convert: dict[Kind, Callable[[Column, list[Any]], ColumnData]] = {
            Kind.TIME: self._times,
            Kind.FLOAT: _floats,
            Kind.INT: _integers,
            Kind.UINT: _integers,
            Kind.BOOL: _booleans,
            Kind.TEXT: _texts,
            Kind.JSON: _json_texts,
        }

    def decode(self, payloads: Iterable[tuple[memoryview | bytes, PayloadKind, int]]) -> Decoded:
        """Columns of a batch of (bytes, kind, receive time in ns). Never raises for bad bytes."""
        out = Decoded()
        for index, (payload, kind, recv_ns) in enumerate(payloads):
            try:
                parsed = _parse(payload, kind)
                if kind.from_stream:
                    count = self._split_stream(parsed, index, recv_ns, out)
                else:
                    count = self._split_rest(parsed, kind, index, recv_ns, out)
            except Unfit as error:
                out.rejects.append(Reject(index, -1, str(error)))
                count = 1
            out.counts.append(count)
        new: dict[str, dict[str, tuple[Position, int]]] = {}
        texts: dict[str, list[tuple[int, list[Any]]]] = {}
        for name in list(out.rows):
            self._columns(self._spec.by_name[name], out, new, texts)
        self._assign_codes(out, new, texts)
        return out

    # -- 1. payloads to messages

    def _split_stream(self, parsed: Any, payload: int, recv_ns: int, out: Decoded) -> int:
        if type(parsed) is not list:
            raise Unfit(f"expected an array of messages, got {_type(parsed)}")
        control = 0
        for index, message in enumerate(parsed):
            wire_type = message.get("T") if type(message) is dict else None
            channel = self._spec.by_type.get(wire_type) if type(wire_type) is str else None
            if channel is not None:
                rows = out.rows.setdefault(channel.name, Rows())
                rows.records.append(message)
                rows.positions.append((payload, index))
                rows.recv_ns.append(recv_ns)
            elif type(wire_type) is str and wire_type in CONTROL:
                out.control.append(message)
                control += 1
            else:
                out.rejects.append(Reject(payload, index, _why_unknown(message)))
        return len(parsed) - control

    def _split_rest(
        self, body: Any, kind: PayloadKind, payload: int, recv_ns: int, out: Decoded
    ) -> int:
        if type(body) is not dict:
            raise Unfit(f"expected an object, got {_type(body)}")
        token = body.get("next_page_token")
        if type(token) is str and token:
            out.page_tokens[payload] = token
        channel, records, empty = self._records(body, kind)
        rows = out.rows.setdefault(channel.name, Rows())
        found = set()
        for index, record in enumerate(records):
            if type(record) is not dict:
                out.rejects.append(
                    Reject(payload, index, f"expected an object, got {_type(record)}")
                )
                continue
            rows.records.append(record)
            rows.positions.append((payload, index))
            rows.recv_ns.append(recv_ns)
            found.add(record.get("S", ""))
        out.symbols[payload] = (frozenset(found), frozenset(empty))
        return len(records)

    def _records(self, body: Message, kind: PayloadKind) -> tuple[Channel, list[Any], list[str]]:
        """The channel, its records (each told its symbol) and the symbols that came with nothing."""
        name = kind.name.lower()
        if kind is PayloadKind.NEWS:
            return self._spec.by_name["snapshots"], _list(body.get(name), name), []
        channel = self._spec.by_name[name]
        content = body.get(name, body.get(name[:-1]))
        if "symbol" in body:
            single = body if kind is PayloadKind.SNAPSHOTS and content is None else content
            content = {body["symbol"]: single}
        elif content is None and kind is PayloadKind.SNAPSHOTS:
            content = body
        if content is None:
            content = {}
        if type(content) is not dict:
            raise Unfit(f"{name}: expected an object by symbol, got {_type(content)}")
        records: list[Any] = []
        empty: list[str] = []
        for symbol, value in content.items():
            if not value:
                empty.append(symbol)
            for record in value if type(value) is list else [value] if value else []:
                if type(record) is dict:
                    record["S"] = symbol
                records.append(record)
        return channel, records, empty

    # -- 2. messages to columns

    def _columns(
        self,
        channel: Channel,
        out: Decoded,
        new: dict[str, dict[str, tuple[Position, int]]],
        texts: dict[str, list[tuple[int, list[Any]]]],
    ) -> None:
        rows = out.rows[channel.name]
        try:
            flat = _flatten(channel, rows)
            columns, coded = self._convert_all(channel, flat)
            self._admit(channel, coded, flat.positions, new)
        except Unfit:
            flat = self._sift(channel, rows, out, new)
            columns, coded = self._convert_all(channel, flat)
        out.rows[channel.name] = flat
        if flat.records:
            out.columns[channel.name] = columns
            texts[channel.name] = coded

    def _sift(
        self,
        channel: Channel,
        rows: Rows,
        out: Decoded,
        new: dict[str, dict[str, tuple[Position, int]]],
    ) -> Rows:
        """Try message by message: reject those that do not fit, keep the rest."""
        good = Rows()
        for record, position, recv_ns in zip(
            rows.records, rows.positions, rows.recv_ns, strict=True
        ):
            try:
                flat = _flatten(channel, Rows([record], [position], [recv_ns]))
                _, coded = self._convert_all(channel, flat)
                self._admit(channel, coded, flat.positions, new)
            except Unfit as error:
                out.rejects.append(Reject(*position, str(error)))
            else:
                good.records += flat.records
                good.positions += flat.positions
                good.recv_ns += flat.recv_ns
        return good

    def _convert_all(
        self, channel: Channel, rows: Rows
    ) -> tuple[list[ColumnData], list[tuple[int, list[Any]]]]:
        """Every column of `channel`; those of codes as (column index, texts), to be coded later."""
        columns: list[ColumnData] = []
        coded: list[tuple[int, list[Any]]] = []
        absent: dict[str, Array] = {}
        subs: dict[str, list[Message]] = {}
        for index, column in enumerate(channel.columns):
            if not column.key:
                columns.append(ColumnData(np.array(rows.recv_ns, np.int64)))
                continue
            values = _values(rows.records, column, subs)
            if column.kind in CODED:
                texts = _code_texts(column, values)
                if column.side_of in absent:
                    _blank_texts(texts, absent[column.side_of])
                coded.append((index, texts))
                columns.append(ColumnData(np.empty(0)))
                continue
            try:
                data = self._convert[column.kind](column, values)
            except (OverflowError, ValueError) as error:
                raise Unfit(f"{column.key}: {error}") from error
            if column.absent_at_zero:
                absent[column.name] = data.values == 0
                data.mask = _without(data.mask, absent[column.name])
            elif column.side_of in absent:
                data.mask = _without(data.mask, absent[column.side_of] & (data.values == 0))
            if column.required and data.mask is not None:
                raise Unfit(f"{column.key}: missing")
            columns.append(data)
        return columns, coded

    def _times(self, column: Column, values: list[Any]) -> ColumnData:
        nanoseconds = self._timestamps.nanoseconds
        mask = _present(values)
        if mask is None:
            return ColumnData(np.array([nanoseconds(v) for v in values], np.int64))
        return ColumnData(
            np.array([0 if v is None else nanoseconds(v) for v in values], np.int64), mask
        )

    # -- 3. texts to codes

    def _admit(
        self,
        channel: Channel,
        coded: list[tuple[int, list[Any]]],
        positions: list[Position],
        new: dict[str, dict[str, tuple[Position, int]]],
    ) -> None:
        """Note texts that have no code yet, with where they first came; refuse what overfills."""
        fresh: dict[str, dict[str, tuple[Position, int]]] = {}
        for index, texts in coded:
            column = channel.columns[index]
            known = self._known(column.dictionary)
            noted = new.setdefault(column.dictionary, {})
            unknown = _members(column, texts).difference(known)
            unknown.discard(None)
            if not unknown:
                continue
            if max(map(len, unknown)) > LONGEST_CODED_TEXT:
                raise Unfit(f"{column.key}: text of over {LONGEST_CODED_TEXT} characters")
            first = fresh.setdefault(column.dictionary, {})
            if len(known) + len(unknown.union(noted, first)) > DICTIONARY_LIMIT[column.kind]:
                raise Unfit(f"{column.key}: the dictionary {column.dictionary!r} is full")
            for row, text in enumerate(texts):
                for item in text if column.kind is Kind.SYMBOLS and text else (text,):
                    if item in unknown:
                        at = (positions[row], index)
                        first[item] = min(at, first.get(item, at))
        for dictionary, first in fresh.items():
            noted = new[dictionary]
            for text, at in first.items():
                noted[text] = min(at, noted.get(text, at))

    def _assign_codes(
        self,
        out: Decoded,
        new: dict[str, dict[str, tuple[Position, int]]],
        texts: dict[str, list[tuple[int, list[Any]]]],
    ) -> None:
        for dictionary, noted in new.items():
            if noted:
                out.new[dictionary] = tuple(sorted(noted, key=noted.__getitem__))
        for name, coded in texts.items():
            channel = self._spec.by_name[name]
            for index, values in coded:
                column = channel.columns[index]
                codes = self._codes(column, out)
                out.columns[name][index] = (
                    _code_lists(values, codes)
                    if column.kind is Kind.SYMBOLS
                    else _code_column(column, values, codes)
                )

    def _codes(self, column: Column, out: Decoded) -> Callable[[Any], int]:
        known = self._known(column.dictionary)
        fresh = out.new.get(column.dictionary)
        if not fresh:
            return known.__getitem__
        base = PROVISIONAL[column.kind]
        provisional = {text: base + i for i, text in enumerate(fresh)}

        def code(text: str) -> int:
            found = known.get(text)
            return provisional[text] if found is None else found

        return code


def _parse(payload: memoryview | bytes, kind: PayloadKind) -> Any:
    try:
        if kind is PayloadKind.MSGPACK:
            return msgpack.unpackb(payload, strict_map_key=False)
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise Unfit(f"not JSON: {error}") from error
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Unfit(f"not msgpack: {type(error).__name__}: {error}") from error


def _why_unknown(message: Any) -> str:
    if type(message) is not dict:
        return f"expected an object, got {_type(message)}"
    if "T" not in message:
        return "T: missing"
    return f"T: unknown message type {str(message['T'])[:40]!r}"


def _type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "text", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _list(value: Any, key: str) -> list[Any]:
    if value is None:
        return []
    if type(value) is not list:
        raise Unfit(f"{key}: expected an array, got {_type(value)}")
    return value


def _flatten(channel: Channel, rows: Rows) -> Rows:
    """One record a row: the levels of order books each become a record of their own."""
    if channel.levels is None:
        return rows
    flat = Rows()
    for record, position, recv_ns in zip(rows.records, rows.positions, rows.recv_ns, strict=True):
        levels = [
            {**record, "side": side, "p": level.get("p"), "s": level.get("s")}
            if type(level) is dict
            else _raise(Unfit(f"{key}: expected an object, got {_type(level)}"))
            for key, side in channel.levels.items()
            for level in _list(record.get(key), key)
        ]
        if not levels and record.get("r"):
            levels = [{**record, "side": None, "p": None, "s": None}]
        flat.records += levels
        flat.positions += [position] * len(levels)
        flat.recv_ns += [recv_ns] * len(levels)
    return flat


def _raise(error: Exception) -> Any:
    raise error


_NOTHING: Message = {}


def _values(records: list[Message], column: Column, subs: dict[str, list[Message]]) -> list[Any]:
    """The raw values of a column, None where the key is missing."""
    key = column.key
    head, dot, tail = key.partition(".")
    if dot:
        if head not in subs:
            subs[head] = [record.get(head) or _NOTHING for record in records]
            if set(map(type, subs[head])) - {dict}:
                raise Unfit(f"{head}: expected an object")
        records, key = subs[head], tail
    try:
        values = list(map(itemgetter(key), records))
    except KeyError:  # missing somewhere
        values = [record.get(key) for record in records]
    if column.values is not None:
        names = column.values
        try:
            return [None if v is None else names[v] for v in values]
        except (KeyError, TypeError) as error:
            raise Unfit(f"{key}: unknown value {error}") from error
    return values


def _present(values: list[Any]) -> Any:
    """A mask of the values that are there; None if all are."""
    if None not in values:
        return None
    return np.array([v is not None for v in values], np.bool_)


def _without(mask: Any, absent: Array) -> Any:
    """`mask` less the rows of `absent`; None while nothing is missing."""
    if not absent.any():
        return mask
    return ~absent if mask is None else mask & ~absent


def _checked_numbers(values: list[Any], allowed: frozenset[type]) -> list[Any]:
    """`values`, checked to be numbers (bool is none), zero where they are missing."""
    types = set(map(type, values))
    if not types <= allowed | {type(None)}:
        odd = next(v for v in values if type(v) not in allowed and v is not None)
        raise Unfit(f"expected a number, got {_type(odd)}")
    return [0 if v is None else v for v in values] if type(None) in types else values


_NUMBERS = frozenset({int, float})
_INTEGERS = frozenset({int})


def _floats(column: Column, values: list[Any]) -> ColumnData:
    numbers = _checked_numbers(values, _NUMBERS)
    return ColumnData(np.array(numbers, np.float64), _present(values))


def _integers(column: Column, values: list[Any]) -> ColumnData:
    if float in set(map(type, values)):
        values = [_whole(v) if type(v) is float else v for v in values]
    numbers = _checked_numbers(values, _INTEGERS)
    dtype = DTYPE[column.kind]
    if numbers and not np.iinfo(dtype).min <= min(numbers) <= max(numbers) <= np.iinfo(dtype).max:
        raise Unfit(f"does not fit into {dtype}")
    return ColumnData(np.array(numbers, dtype), _present(values))


def _whole(value: float) -> int:
    if not value.is_integer():
        raise Unfit(f"expected a whole number, got {value}")
    return int(value)


def _booleans(column: Column, values: list[Any]) -> ColumnData:
    if not set(map(type, values)) <= {bool, type(None)}:
        raise Unfit("expected true or false")
    return ColumnData(np.array([bool(v) for v in values], np.bool_))


def _texts(column: Column, values: list[Any]) -> ColumnData:
    if not set(map(type, values)) <= {str, type(None)}:
        odd = next(v for v in values if type(v) is not str and v is not None)
        raise Unfit(f"expected text, got {_type(odd)}")
    return _heap([b"" if v is None else v.encode() for v in values], _present(values))


def _json_texts(column: Column, values: list[Any]) -> ColumnData:
    return _heap([b"" if v is None else orjson.dumps(v) for v in values], _present(values))


def _heap(texts: list[bytes], mask: Any) -> ColumnData:
    ends = np.cumsum([len(t) for t in texts], dtype=np.int64)
    return ColumnData(ends, mask, np.frombuffer(b"".join(texts), np.uint8))


def _code_texts(column: Column, values: list[Any]) -> list[Any]:
    """The texts behind a column of codes: a text or None a row, a list of texts for SYMBOLS."""
    types = set(map(type, values))
    if column.kind is Kind.CONDITIONS:
        if types - {list, str, type(None)}:
            raise Unfit(f"{column.key}: expected a list of conditions")
        try:
            # An older form of the protocol gave one condition as plain text.
            return [
                v if v is None else _joined(*v) if type(v) is list else _joined(*([v] if v else []))
                for v in values
            ]
        except TypeError as error:
            raise Unfit(f"{column.key}: a condition is no text") from error
    if column.kind is Kind.SYMBOLS:
        if types - {list, type(None)} or any(type(s) is not str for v in values if v for s in v):
            raise Unfit(f"{column.key}: expected a list of symbols")
        return values
    if types - {str, type(None)}:
        raise Unfit(f"{column.key}: expected text")
    if column.required and (type(None) in types or "" in values):
        raise Unfit(f"{column.key}: missing")
    return values


@lru_cache(maxsize=4096)
def _joined(*codes: str) -> str:
    return join_conditions(list(codes))


def _blank_texts(texts: list[Any], absent: Array) -> None:
    """Drop the exchange of an absent quote side, which the service sends as a blank."""
    for row in np.flatnonzero(absent):
        if texts[row] is not None and not texts[row].strip():
            texts[row] = None


def _members(column: Column, texts: Sequence[Any]) -> set[Any]:
    if column.kind is Kind.SYMBOLS:
        return {symbol for listed in texts if listed for symbol in listed}
    return set(texts)


def _code_column(column: Column, texts: list[Any], code: Callable[[Any], int]) -> ColumnData:
    mask = _present(texts)
    codes = {text: code(text) for text in set(texts) if text is not None}
    codes[None] = 0
    return ColumnData(np.array([codes[t] for t in texts], DTYPE[column.kind]), mask)


def _code_lists(lists: list[Any], code: Callable[[Any], int]) -> ColumnData:
    heap = np.array([code(s) for listed in lists if listed for s in listed], np.uint32)
    ends = np.cumsum([len(v or ()) for v in lists], dtype=np.int64)
    return ColumnData(ends, _present(lists), heap)
